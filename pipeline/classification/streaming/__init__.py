"""Heads trained on rows that are read shard by shard."""
