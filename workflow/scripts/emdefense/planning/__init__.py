"""Before and while a study runs: what there is to do, what it will cost, and how far it is."""
