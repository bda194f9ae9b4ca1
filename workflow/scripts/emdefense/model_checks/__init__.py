"""What is found out about a model, in seconds, before anything is trained or sampled."""
