"""What a person does with a model and a data set, on a page that this computer serves to itself."""
