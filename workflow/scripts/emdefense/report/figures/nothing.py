"""The mark of figures that only say why they are empty; without matplotlib, which the page has no use for."""

NOTHING = "nothing-to-show"  # the id in their SVG
