"""The trainer, the penalties, SafeLoRA and checkpoints."""
