"""Tables as data, and their files."""
