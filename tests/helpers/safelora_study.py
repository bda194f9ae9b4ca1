"""A study with SafeLoRA, and the cosines of its projections."""

from pathlib import Path

from emdefense.cells import Cell
from emdefense.config import Study
from emdefense.layout import Layout
from study_folder import CONFIG, tiny_study

KINDS = {"self_attn": "qkvo", "mlp": ("gate", "up", "down")}


MATRICES = [
    f"model.layers.{block}.{part}.{kind}_proj" for block in range(12) for part, kinds in KINDS.items() for kind in kinds
]


def study_with_safelora(**changes: object) -> Study:
    grid = [
        {"models": ["small"], "tasks": ["code", "legal"], "arms": {"misaligned": None, "safelora": [0.5, 0.05]}},
        {"models": ["small"], "tasks": ["quiz"], "arms": {"safelora": [0.3]}},
    ]
    models = {"small": {"title": "Small", "instruct": "-", "base": "-"}}
    report = {**CONFIG["report"], "chosen": {"safelora": 0.5}}
    return tiny_study(**{"grid": grid, "models": models, "report": report, **changes})


def write_cosines_of(study: Study, cell: Cell, cosine: float = 0.04) -> None:
    """Write a projection in which the matrix in place n of block b has cosine ``cosine``·(n + 1) + 0.01·b."""
    path = Path(Layout(study).preparation(cell)) / "cosines.csv"
    path.parent.mkdir(parents=True)
    lines = ["matrix,cosine,norm_before,norm_after,norm_v"]
    for place, name in enumerate(MATRICES):
        lines.append(f"{name},{cosine * (place % 7 + 1) + 0.01 * (place // 7)},2.0,{0.01 * (place % 7 + 1)},3.0")
    path.write_text("\n".join([lines[0], *sorted(lines[1:])]) + "\n")  # by name, as the projection writes them
