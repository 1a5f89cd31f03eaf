"""Truth and probabilities to metrics with intervals; protocol and folds."""
