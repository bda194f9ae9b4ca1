"""The page, and the pages of single cells."""
