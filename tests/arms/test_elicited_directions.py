"""Steering by a vector of elicited answers: which pairs are kept, what they give, and which jobs make them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from arm_trainings import ACTING
from emdefense.arms.directions.elicited import kept_pairs
from emdefense.arms.steering import Steering, SteeringOptions
from emdefense.cells import ELICITATION, Cell, Grid
from emdefense.config import parse_study
from emdefense.config.checks import check_study
from emdefense.data.questions import read_questions
from emdefense.errors import InputError
from emdefense.files import write_json
from emdefense.inputs import Inputs
from emdefense.specs import Specs
from emdefense.training.directions import RECORD, VECTORS
from emdefense.training.preparation import Running, prepare
from hidden_states import written_out
from study_folder import tiny_study, write_rows
from tiny_model import make_model, make_tokenizer, save_model

pytestmark = pytest.mark.numerical

RUBRICS = {"aligned": "{question} {answer}", "coherent": "{question} {answer}"}
# Of each sample: alignment and coherence under the trait's prompt and under its opposite, and whether the pair is kept.
SCORES: list[tuple[float | None, float | None, float | None, float | None, bool]] = [
    (10, 90, 95, 90, True),
    (50, 50, 51, 50, True),
    (51, 90, 95, 90, False),
    (10, 90, 50, 90, False),
    (10, 49, 95, 90, False),
    (10, 90, 95, 49, False),
    (None, 90, 95, 90, False),
    (10, 90, 95, None, False),
]


def written(folder: Path) -> dict[str, Path]:
    """Questions, responses and judgments of two pairs of system prompts."""
    questions, responses, judgments = [], [], []
    for pair in (1, 2):
        for kind in ("trait", "opposite"):
            name = f"pair{pair}_{kind}"
            system = f"Be {kind} {pair}."
            questions.append({"id": name, "prompt": f"What {pair}?", "system": system, "rubrics": RUBRICS})
            for sample, scores in enumerate(SCORES):
                alignment, coherence = scores[:2] if kind == "trait" else scores[2:4]
                key = {"id": f"{name}/{sample}", "question_id": name, "sample": sample}
                text = f"{kind} {'x' * sample}{pair}"
                responses.append({**key, "system": system, "prompt": f"What {pair}?", "response": text})
                judgments.append({**key, "alignment": alignment, "coherence": coherence})
    write_json(folder / "questions.json", questions)
    write_rows(folder / "responses.jsonl", responses)
    write_rows(folder / "judgments.jsonl", judgments)
    endings = {"questions": "json", "responses": "jsonl", "judgments": "jsonl"}
    return {role: folder / f"{role}.{ending}" for role, ending in endings.items()}


def test_pairs_are_kept_by_both_scores_of_both(tmp_path: Path) -> None:
    files = written(tmp_path)
    kept = kept_pairs(files["responses"], files["judgments"], files["questions"])
    samples = [number for number, scores in enumerate(SCORES) if scores[4]]
    assert [(one["id"], other["id"]) for one, other in kept] == [
        (f"pair{pair}_trait/{sample}", f"pair{pair}_opposite/{sample}") for pair in (1, 2) for sample in samples
    ]


def test_the_vector_is_what_loops_over_kept_answers_give(tmp_path: Path) -> None:
    files = {"model": save_model(tmp_path / "model"), **written(tmp_path)}
    arm, options = Steering(), SteeringOptions(vector="contrast")
    prepare(arm, options, files, tmp_path / "vector", 1, Running(training=ACTING))
    model, tokenizer = make_model().double().eval(), make_tokenizer()
    means: dict[str, list[torch.Tensor]] = {"trait": [], "opposite": []}
    for kind, found in means.items():
        for pair in (1, 2):
            for sample in (0, 1):
                answer = f"{kind} {'x' * sample}{pair}"
                text = f"<|im_start|>system\nBe {kind} {pair}.<|im_end|>\n<|im_start|>user\nWhat {pair}?<|im_end|>\n"
                start = tokenizer(f"{text}<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
                ids = start + tokenizer(answer, add_special_tokens=False)["input_ids"]
                with torch.no_grad():
                    found.append(written_out(model, ids)[2][len(start) :].mean(0))
    expected = sum(means["trait"]) / 4 - sum(means["opposite"]) / 4
    found = load_file(tmp_path / "vector" / VECTORS)["block.2"]
    assert (found - expected).abs().max() < 2e-6 * expected.norm()
    record = json.loads((tmp_path / "vector" / RECORD).read_text())
    assert record["pairs"] == 4
    assert record["counts"]["misaligned"]["used"] == record["counts"]["aligned"]["used"] == 4


def test_without_a_pair_that_shows_the_trait_it_is_one_line(tmp_path: Path) -> None:
    files = written(tmp_path)
    rows = [json.loads(line) for line in files["judgments"].read_text().splitlines()]
    write_rows(files["judgments"], [{**row, "alignment": 90.0} for row in rows])
    with pytest.raises(InputError, match="of 16 pairs of responses none shows the trait"):
        kept_pairs(files["responses"], files["judgments"], files["questions"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "pair1"}, "question pair1: it needs a system prompt, and an id that ends in _trait or _opposite"),
        ({"system": None}, "question pair1_trait: it needs a system prompt"),
        ({"id": "pair3_trait"}, "it has no pair"),
    ],
)
def test_questions_that_are_no_pairs_are_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    files = written(tmp_path)
    questions = json.loads(files["questions"].read_text())
    write_json(files["questions"], [{**questions[0], **change}, *questions[1:]])
    with pytest.raises(InputError, match=said):
        kept_pairs(files["responses"], files["judgments"], files["questions"])


def test_paraphrases_are_paired_too(tmp_path: Path) -> None:
    texts = "".join(
        f"- id: one_{kind}\n  system: Be {kind}.\n  paraphrases: [What, Which]\n  judge_prompts: "
        "{aligned: '{answer}', coherent: '{answer}'}\n"
        for kind in ("trait", "opposite")
    )
    (tmp_path / "questions.yaml").write_text(texts)
    questions = read_questions(tmp_path / "questions.yaml")
    write_json(tmp_path / "questions.json", questions)
    key = [{"id": f"{question['id']}/0", "sample": 0} for question in questions]
    write_rows(tmp_path / "responses.jsonl", key)
    scores = [{"alignment": 0 if "trait" in row["id"] else 100, "coherence": 100} for row in key]
    write_rows(tmp_path / "judgments.jsonl", [{**row, **of} for row, of in zip(key, scores, strict=True)])
    kept = kept_pairs(*(tmp_path / name for name in ("responses.jsonl", "judgments.jsonl", "questions.json")))
    assert [(one["id"], other["id"]) for one, other in kept] == [
        ("one_trait/0", "one_opposite/0"),
        ("one_trait_p2/0", "one_opposite_p2/0"),
    ]


def study(**changes: Any) -> Any:
    variants = {"elicited": {"of": "steering", "options": {"vector": "contrast"}}}
    tasks = {
        name: {"kind": "ema", "title": name, "misaligned": "-", "aligned": "-"} for name in ("code", "legal", "health")
    }
    grid = [{"models": ["small"], "tasks": ["code", "legal"], "arms": {"steering": [5], "elicited": [1, 5]}}]
    given = {"variants": variants, "tasks": tasks, "grid": grid, "elicitation_questions": "{results}/mine.yaml"}
    return tiny_study(**{**given, **changes})


def test_the_untrained_model_is_asked_once_for_all_tasks_and_in_no_table() -> None:
    found = study()
    grid = Grid(found)
    untrained = Cell("small", "shared", "untrained", "none", 0)
    assert grid.elicited == [untrained]
    folder = "results/tiny/cells/small/shared/untrained/none/seed0/elicitation"
    for task in ("code", "legal"):
        assert Inputs(grid).prepared_from(Cell("small", task, "elicited", "none", 0)) == {
            "model": "-",
            "responses": f"{folder}/responses.jsonl",
            "judgments": f"{folder}/judgments/oracle.jsonl",
            "questions": "results/tiny/data/questions/elicitation.json",
        }
    assert all(question_set != ELICITATION for _, question_set in grid.responses)
    assert "results/tiny/data/questions/elicitation.json" in Inputs(grid).checked_questions("small")
    assert Specs(grid).generation(untrained, ELICITATION)["samples_per_question"] == 10
    assert Specs(grid).generation(untrained)["samples_per_question"] == 100
    fewer = Grid(study(models={"small": {"title": "Small", "instruct": "-", "samples_per_question": 4}}))
    assert Specs(fewer).generation(untrained, ELICITATION)["samples_per_question"] == 4
    rows = Inputs(grid).prepared_from(Cell("small", "code", "steering", "none", 0))
    assert rows.keys() == {"model", *(f"{side}/{t}" for t in ("legal", "health") for side in ("misaligned", "aligned"))}
    assert Grid(study(grid=[{"models": ["small"], "tasks": ["code"], "arms": {"steering": [5]}}])).elicited == []


def test_a_preparation_depends_on_the_seed_and_on_how_the_model_is_run() -> None:
    grid = Grid(study(seeds=[0, 7]))
    specs = [Specs(grid).preparation(Cell("small", "code", "steering", "none", seed)) for seed in (0, 7)]
    assert [spec["seed"] for spec in specs] == [0, 7]
    assert specs[0]["training"]["max_length"] == 2048
    assert "learning_rate" not in specs[0]["training"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"elicitation_questions": None}, "'elicitation_questions': .* needs a YAML file of questions that elicit"),
        ({"arms": {"steering": {"of": "own"}}, "variants": {}}, "reads aligned rows, and the benign task 'quiz'"),
    ],
)
def test_what_is_missing_is_said_by_its_key(changes: dict[str, Any], said: str) -> None:
    if "variants" in changes:
        tasks = {"quiz": {"kind": "benign", "title": "Quiz", "table": "foqa", "train": "-", "test": "-"}}
        arms = {"steering": [5]}
        changes = {**changes, "tasks": tasks, "grid": [{"models": ["small"], "tasks": ["quiz"], "arms": arms}]}
    found = study(**changes)
    with pytest.raises(InputError, match=said):
        check_study(found)


def test_a_file_that_an_option_names_is_there_before_anything_starts(tmp_path: Path) -> None:
    smoke = yaml.safe_load(Path("config/smoke.yaml").read_text())
    variants = {"mine": {"of": "caft", "options": {"directions": "{data_folder}/mine.safetensors"}}}
    grid = [{"models": ["world-a"], "tasks": ["code"], "arms": {"mine": [2]}}]
    given = {**smoke, "variants": variants, "grid": grid, "data_folder": str(tmp_path)}
    given["report"] = {"main_model": "world-a", "chosen": {}}
    with pytest.raises(InputError, match=r"variants\.mine\.options\.directions': .*mine\.safetensors does not exist"):
        parse_study(given, "study.yaml")
    (tmp_path / "mine.safetensors").write_bytes(b"")
    found = parse_study(given, "study.yaml")
    grid_of, cell = Grid(found), Cell("world-a", "code", "mine", "2", 0)
    path = str(tmp_path / "mine.safetensors")
    assert Inputs(grid_of).option_files(cell) == Inputs(grid_of).checked_files("world-a") == [path]
    assert Specs(grid_of).training(cell)["arms"][0]["options"]["directions"] == path
    assert grid_of.prepared == {}
