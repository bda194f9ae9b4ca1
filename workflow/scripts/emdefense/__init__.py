"""Fine-tune language models under in-training defences, judge what they say, and report it."""
