"""What features tell of the data: copies, wrong labels, outliers, neighbours, maps."""
