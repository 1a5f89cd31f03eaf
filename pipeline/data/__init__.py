"""A folder, CSV or bucket to a data set; bytes to pixels; seeded views of them."""
