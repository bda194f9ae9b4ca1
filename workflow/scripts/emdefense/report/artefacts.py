"""The tables and figures that a study's report always has, by the names of their files."""

TABLES = tuple(f"{number:02d}" for number in range(1, 12))
FIGURES = ("2a", "2b", "3", "4", "5")
FURTHER_FIGURES = ("tradeoff", "question_heatmap", "score_scatter")
