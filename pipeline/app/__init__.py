"""The same things on a page that this computer serves to itself."""
