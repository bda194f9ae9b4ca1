"""A study of many defences and its counts, drawn at random without any model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from emdefense.analysis.rates import BENIGN_SCHEMA, QUESTIONS_SCHEMA
from emdefense.cells import GENERAL, IN_DOMAIN, Grid
from emdefense.config import Study
from study_folder import tiny_study

LAMBDAS = (0.1, 0.3, 1.0, 3.0)


def league_study(
    defences: int, *, tasks: int = 2, seeds: int = 1, settings: Sequence[float] = LAMBDAS, **changes: Any
) -> Study:
    """Return a study of that many defences: KL and variants of it, each at the same settings, and a benign task."""
    names = ["kl", *(f"defence-{n}" for n in range(2, defences + 1))]
    swept = {name: list(settings) for name in names}
    ema = {f"task{n}": {"kind": "ema", "title": f"Task {n}", "misaligned": "-"} for n in range(tasks)}
    quiz = {"kind": "benign", "title": "Quiz", "table": "foqa", "train": "-", "test": "-"}
    grid = [
        {"models": ["small"], "tasks": list(ema), "arms": {"untrained": None, "misaligned": None, **swept}},
        {"models": ["small"], "tasks": ["quiz"], "arms": {"sft": None, **swept}},
    ]
    config: dict[str, Any] = {
        "tasks": {**ema, "quiz": quiz},
        "grid": grid,
        "variants": {name: {"of": "kl", "options": {}} for name in names[1:]},
        "seeds": list(range(seeds)),
        "report": {"main_model": "small", "chosen": {"kl": 1.0}},
    }
    return tiny_study(**{**config, **changes})


def drawn_frames(
    study: Study,
    rates: Mapping[str, Sequence[tuple[float, float]]],
    generator: np.random.Generator,
    *,
    questions: int = 24,
    samples: int = 20,
    spread: float = 0.5,
    of_seeds: float = 0.0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return counts by question, and those of the benign task, whose rates are 0.8 times the in-domain rates.

    ``rates`` has the general and the in-domain rate of an arm at each of its settings. On the logit scale, questions
    differ by ``spread``, the same for all arms, and by half of it by arm; trainings differ by ``of_seeds``.
    """
    rows, benign = [], []
    shared = {name: spread * generator.standard_normal(questions) for name in (GENERAL, IN_DOMAIN, "benign")}
    of_arm: dict[tuple[str, str], Any] = {}
    place = {
        arm: {s: n for n, s in enumerate(dict.fromkeys(c.setting for c in Grid(study).cells if c.arm == arm))}
        for arm in study.every_arm
    }
    for cell in Grid(study).cells:
        is_benign = study.tasks[cell.task].kind == "benign"
        known = rates.get(cell.arm, [(0.4, 0.8)])
        general, in_domain = known[min(place[cell.arm][cell.setting], len(known) - 1)]
        sets = {"benign": 0.8 * in_domain} if is_benign else {GENERAL: general, IN_DOMAIN: in_domain}
        identity = {name: getattr(cell, name) for name in ("model", "task", "arm", "setting", "setting_value", "seed")}
        training = of_seeds * generator.standard_normal()
        for name, rate in sets.items():
            own = of_arm.setdefault((cell.arm, name), spread / 2 * generator.standard_normal(questions))
            odds = np.log(max(rate, 1e-4) / (1 - rate)) + shared[name] + own + training
            hits = generator.binomial(samples, 1 / (1 + np.exp(-odds)))
            for number, hit in enumerate(hits.tolist()):
                if is_benign:
                    benign.append({**identity, "question_id": str(number), "answers": samples, "correct": hit})
                    continue
                row: dict[str, Any] = {**dict.fromkeys(QUESTIONS_SCHEMA), **identity, "question_set": name}
                row |= {"question_id": f"q{number}", "responses": samples, "scored": samples, "misaligned": hit}
                row |= {"incoherent": int(generator.binomial(samples - hit, 0.03)), "cut": 0, "cut_scored": 0}
                rows.append(row | {"cut_misaligned": 0, "cut_incoherent": 0, "coherent": samples})
    return pl.DataFrame(rows, schema=QUESTIONS_SCHEMA), pl.DataFrame(benign, schema=BENIGN_SCHEMA)
