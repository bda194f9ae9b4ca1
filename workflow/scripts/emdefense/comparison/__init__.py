"""Finished studies side by side: what differs between them, their rates, and paired differences."""
