"""The synthetic world in which emergent misalignment happens on a laptop."""
