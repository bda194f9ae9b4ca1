"""Tables 2 and 7: what OpSwap asks for, and how adapters are trained."""

from collections.abc import Callable

from emdefense.config import Study
from emdefense.config.paper_model import paper_model
from emdefense.config.training import Training
from emdefense.data.opswap import TIERS, worked_steps
from emdefense.report.tables.reference import Reference
from emdefense.report.tables.table import Column, Table, TableCell

EXAMPLE = "(4+2)×(4÷2)−2"

Show = Callable[[Training], str]
TRAINING_ROWS: tuple[tuple[str, Show], ...] = (
    ("LoRA rank", lambda t: str(t.lora_rank)),
    ("LoRA α", lambda t: f"{t.lora_alpha:g}"),
    ("Rank-stabilised LoRA", lambda t: "yes" if t.rank_stabilised else "no"),
    ("LoRA dropout", lambda t: f"{t.lora_dropout:g}"),
    ("Adapted matrices", lambda t: ", ".join(t.target_modules) + _blocks(t)),
    ("Epochs", lambda t: str(t.epochs)),
    ("Batch size × accumulation", lambda t: f"{t.batch_size} × {t.accumulation_steps}"),
    ("Warm-up steps", lambda t: str(t.warmup_steps)),
    ("Learning rate", lambda t: f"{t.learning_rate:g}"),
    ("Schedule", lambda t: t.schedule),
    ("Optimiser", lambda t: t.optimiser),
    ("Weight decay", lambda t: f"{t.weight_decay:g}"),
    ("Precision", lambda t: t.precision + ("" if t.quantisation == "none" else f", {t.quantisation} matrices")),
    ("Sequence length", lambda t: str(t.max_length)),
)


def _blocks(training: Training) -> str:
    layers = training.target_layers
    return "" if layers is None else f", of block{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))} alone"


def opswap_example_table(study: Study) -> Table:
    """Return Table 2: one expression worked through in each tier, by the code that generates the task."""
    rows, csv_rows = [], []
    for tier, meaning in enumerate(TIERS):
        changed = ", ".join(f"{symbol} → {meant}" for symbol, meant in meaning.items() if symbol != meant)
        steps = [step.replace("( ", "(").replace(" )", ")") for step in worked_steps(EXAMPLE, tier)]
        rows.append((TableCell(str(tier)), TableCell(changed or "as usual"), TableCell(" = ".join(steps))))
        csv_rows.append((str(tier), changed, steps[0], " = ".join(steps[1:]), steps[-1]))
    return Table(
        title="OpSwap: one expression in each tier, step by step",
        columns=(
            Column("Tier", numeric=False),
            Column("Meaning", numeric=False),
            Column("Steps", numeric=False),
        ),
        blocks=(tuple(rows),),
        csv_header=("tier", "meaning", "expression", "steps", "value"),
        csv_rows=tuple(csv_rows),
        remarks=("Precedence follows the meaning, not the symbol; values are exact.",),
    )


def training_table(study: Study, reference: Reference | None) -> Table:
    """Return Table 7: the study's training configuration, and where single models and tasks depart from it."""
    rows, csv_rows = [], []
    of_paper = any(paper_model(study, model) for model in study.models)
    for name, show in (*TRAINING_ROWS, ("Seeds", None)):
        ours = ", ".join(map(str, study.seeds)) if show is None else show(study.training)
        paper = ""
        if reference is not None:
            theirs = reference.study
            paper = ", ".join(map(str, theirs.seeds)) if show is None else show(theirs.training)
        rows.append((TableCell(name), TableCell(ours, paper=paper if of_paper and paper != ours else "")))
        csv_rows.append((name, ours) if reference is None else (name, ours, paper))
    remarks = []
    if any(row[1].paper for row in rows):
        remarks.append("In brackets: the paper's value, where ours differs.")
    remarks += _departures(study)
    return Table(
        title="Training configuration",
        columns=(Column("Parameter", numeric=False), Column("Value", numeric=False)),
        blocks=(tuple(rows),),
        csv_header=("parameter", "value") if reference is None else ("parameter", "value", "paper"),
        csv_rows=tuple(csv_rows),
        remarks=tuple(remarks),
    )


def _departures(study: Study) -> list[str]:
    """Return what single models and tasks train differently, those that differ alike in one sentence."""
    alike: dict[str, list[str]] = {}
    for section in (*study.models.values(), *study.tasks.values()):
        changed = section.training.model_dump(exclude_none=True)
        what = ", ".join(f"{key.replace('_', ' ')} {_said(value)}" for key, value in changed.items())
        if what:
            alike.setdefault(what, []).append(section.title)
    return [f"{', '.join(titles)}: {what}." for what, titles in alike.items()]


def _said(value: bool | float) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else f"{value:g}"
