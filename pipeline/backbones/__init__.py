"""Networks behind one small interface."""
