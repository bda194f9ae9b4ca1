"""From raw rows to conversations, splits, the rows of arms, and the generated benign task."""
