"""Transfer learning on a laptop."""
