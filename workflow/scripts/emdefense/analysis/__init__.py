"""From judgments to rates, intervals and claims."""
