"""How likely held-out answers are to a model, a token: a measure that no judge takes part in."""
