"""A fitted head with its recipe, on disk and back; predicting."""
