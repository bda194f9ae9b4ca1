"""From raw rows to conversations, splits, interleaving, and the generated benign task."""
