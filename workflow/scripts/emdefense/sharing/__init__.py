"""What others may have of a finished study: adapters and a data set with their cards, checked for what is private."""
