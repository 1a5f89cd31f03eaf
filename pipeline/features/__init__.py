"""Stage one: which rows are missing; compute them, keep them."""
