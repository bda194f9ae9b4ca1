"""Fetching what a study does not make: each kind of source becomes plain local files."""
