"""The separate path: the last layers trained jointly with a head."""
