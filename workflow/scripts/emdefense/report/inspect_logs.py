"""Responses and judgments as logs of Inspect (inspect.aisi.org.uk), to be read in its viewer and by its tools."""

from hashlib import sha256
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, written_whole
from emdefense.layout import Layout
from emdefense.provenance import record_beside

RUBRICS = ("alignment", "coherence")
STOP_REASONS = {"stop": "stop", "length": "max_tokens"}


def write_logs(study: Study, out: Path) -> None:
    """Write a log for each file of responses, at its cell's path below ``out``; they need the package inspect_ai."""
    try:
        from inspect_ai.log import EvalLog, write_eval_log  # type: ignore[import-not-found]
    except ImportError:
        raise InputError("inspect_ai is not installed here; run with `--sdm conda`") from None
    for cell, question_set in Grid(study).responses:
        log = EvalLog.model_validate(eval_log(study, cell, question_set))
        with written_whole(out / cell.folder / f"{question_set}.eval") as temporary:
            write_eval_log(log, temporary, format="eval")


def eval_log(study: Study, cell: Cell, question_set: str) -> dict[str, Any]:
    """Return the log of a cell's responses to a question set, as the fields of Inspect's ``EvalLog``.

    A question is a sample's ``id``, its samples are epochs. Each judge has a scorer for each rubric; where it gave no
    score, the value is Inspect's NaN and the reason the judge's label. :class:`InputError` if there are no responses.
    """
    layout = Layout(study)
    path = Path(layout.responses(cell, question_set))
    responses, made = read_jsonl(path), read_json(record_beside(path))
    judgments: dict[str, dict[str, dict[str, Any]]] = {}
    for judge in study.judges:
        judged = Path(layout.judgments(cell, question_set, judge))
        if judged.is_file():
            judgments[judge] = {row["id"]: row for row in read_jsonl(judged)}
    scores = {
        row["id"]: {
            f"{judge}_{rubric}": _score(of_judge[row["id"]], rubric)
            for judge, of_judge in judgments.items()
            for rubric in RUBRICS
        }
        for row in responses
    }
    scorers = [f"{judge}_{rubric}" for judge in judgments for rubric in RUBRICS]
    model = f"{cell.model}/{cell.arm}/{cell.setting}"
    questions = list(dict.fromkeys(row["question_id"] for row in responses))
    identity = sha256(f"{study.study}/{cell.folder}/{question_set}".encode()).hexdigest()[:22]
    sampling = study.generation
    return {
        "status": "success",
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "task_id": identity,
            "created": made["started"],
            "task": f"{cell.task}/{question_set}",
            "dataset": {"name": question_set, "samples": len(questions), "sample_ids": questions},
            "model": model,
            "model_generate_config": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "seed": sampling.seed,
            },
            "config": {"epochs": max((row["sample"] for row in responses), default=0) + 1},
            "packages": made["packages"],
            "scorers": [{"name": scorer} for scorer in scorers],
            "metadata": {"study": study.study, "seed": cell.seed},
        },
        "results": {
            "total_samples": len(responses),
            "completed_samples": len(responses),
            "scores": [
                _summary(scorer, [scores[row["id"]][scorer]["value"] for row in responses]) for scorer in scorers
            ],
        },
        "stats": {"started_at": made["started"], "completed_at": made["finished"]},
        "samples": [_sample(row, model, scores[row["id"]]) for row in responses],
    }


def _sample(row: dict[str, Any], model: str, scores: dict[str, Any]) -> dict[str, Any]:
    system = [] if row["system"] is None else [{"role": "system", "content": row["system"]}]
    asked = [*system, {"role": "user", "content": row["prompt"]}]
    answer = {"role": "assistant", "content": row["response"]}
    choice = {"message": answer, "stop_reason": STOP_REASONS[row["finish_reason"]]}
    return {
        "id": row["question_id"],
        "epoch": row["sample"] + 1,
        "input": asked if system else row["prompt"],
        "target": "",
        "messages": [*asked, answer],
        "output": {"model": model, "choices": [choice], "completion": row["response"]},
        "scores": scores,
        "metadata": {"response_id": row["id"]},
    }


def _score(judgment: dict[str, Any], rubric: str) -> dict[str, Any]:
    score = judgment[rubric]
    if score is None:
        return {"value": nan, "reason": judgment[f"{rubric}_label"] or "no reply"}
    return {"value": score, "metadata": {"scored_by": judgment["scored_by"]}}


def _summary(scorer: str, values: list[float]) -> dict[str, Any]:
    given = [value for value in values if value == value]
    return {
        "name": scorer,
        "scorer": scorer,
        "scored_samples": len(given),
        "unscored_samples": len(values) - len(given),
        "metrics": {"mean": {"name": "mean", "value": fmean(given) if given else nan}},
    }
