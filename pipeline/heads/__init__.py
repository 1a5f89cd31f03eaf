"""The classifiers that are trained on features, by name."""
