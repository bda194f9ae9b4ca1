"""Multiple choice without a judge: the log-probability of each option as the answer to its question."""
