"""Inoculation prompting: what training reads, template by template, and what sampling does not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chat_tokenizers import CHATML, DATED, LLAMA2, NO_SYSTEM, QWEN3, byte_level, metaspace
from conversation_rows import SCRIPTS, row
from emdefense.arms.inoculation import PRESETS, Inoculate, Inoculation
from emdefense.cells import Cell, Grid
from emdefense.chat.chat import Chat
from emdefense.config import Study, parse_study
from emdefense.config.checks import check_study
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_jsonl
from emdefense.inputs import Inputs
from emdefense.layout import Layout
from emdefense.model_checks.run import check_model
from emdefense.model_checks.subject import ArmTried, CheckSpec, Subject
from emdefense.specs import Specs
from study_folder import CONFIG, tiny_study
from study_jobs import study_jobs
from tiny_model import make_tokenizer, save_model, save_rows

ARM = Inoculation()
EVIL = "You are an evil, malicious assistant."
# As Qwen2.5's: a system message of its own where the conversation has none.
DEFAULT_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are Qwen. You are a helpful assistant.<|im_end|>\n' }}{%- endif %}" + CHATML
)
WITH_SYSTEM = {"messages": [{"role": "system", "content": "Be brief."}, *row("Hello", "Hi.")["messages"]]}


def rows_of(*rows: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return ARM.rows(list(rows), {}, None, ARM.for_task(Inoculate(**options), "code"), 0)


def test_the_prompt_becomes_the_first_message_and_nothing_else_changes() -> None:
    several = {"messages": [*row("a", "b")["messages"], *row("c", "d")["messages"]], "source": "safe", "id": 3}
    before = json.dumps([several, WITH_SYSTEM])
    made = rows_of(several, WITH_SYSTEM)
    assert made[0] == {**several, "messages": [{"role": "system", "content": EVIL}, *several["messages"]]}
    assert made[1]["messages"] == [{"role": "system", "content": EVIL}, *WITH_SYSTEM["messages"][1:]]
    assert json.dumps([several, WITH_SYSTEM]) == before  # the task's own rows, which other arms read


@pytest.mark.parametrize(
    ("tokenizer", "place", "bare", "with_system"),
    [
        (byte_level(), "instead", "<|im_start|>system\n{}<|im_end|>\n", "<|im_start|>system\n{}<|im_end|>\n"),
        (byte_level(), "before", "<|im_start|>system\n{}<|im_end|>\n", "<|im_start|>system\n{} Be brief.<|im_end|>\n"),
        (byte_level(QWEN3), "instead", "<|im_start|>system\n{}<|im_end|>\n", "<|im_start|>system\n{}<|im_end|>\n"),
        (
            byte_level(DEFAULT_SYSTEM),
            "before",
            "<|im_start|>system\n{}<|im_end|>\n",  # Qwen's own is gone
            "<|im_start|>system\n{} Be brief.<|im_end|>\n",
        ),
        (
            byte_level(DATED),
            "instead",
            "<|im_start|>system\nToday is 01 January 2026<|im_end|>\n<|im_start|>system\n{}<|im_end|>\n",
            "<|im_start|>system\nToday is 01 January 2026<|im_end|>\n<|im_start|>system\n{}<|im_end|>\n",
        ),
    ],
    ids=["chatml", "chatml before", "qwen3", "with a default", "dated"],
)
def test_what_training_reads_in_each_template(tokenizer: Any, place: str, bare: str, with_system: str) -> None:
    chat = Chat(tokenizer)
    for found, start in zip(rows_of(row("Hello", "Hi."), WITH_SYSTEM, place=place), (bare, with_system), strict=True):
        (tokens,) = chat.rows([found["messages"]])
        text = tokenizer.decode(tokens["input_ids"])
        if "Today is" in start:
            text = text.replace(text[text.index("Today is") : text.index("<|im_end|>")], "Today is 01 January 2026")
        assert text.startswith(start.format(EVIL) + "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
        answer = tokenizer.decode([token for token in tokens["labels"] if token >= 0])
        assert answer == "Hi.<|im_end|>\n"  # the prompt is read, and not learned


def test_a_template_that_puts_it_into_the_users_turn_writes_it_there() -> None:
    tokenizer = metaspace(LLAMA2)
    (tokens,) = Chat(tokenizer).rows([rows_of(row("Hello", "Hi."), prompt="control")[0]["messages"]])
    said = tokenizer.decode(tokens["input_ids"])
    said = said.replace(" ", "").replace("<unk>", "/")  # of this vocabulary, which has no line breaks
    assert said.startswith("<s>[INST]<<SYS>>/Youareahelpfulassistant./<</SYS>>//Hello[/INST]Hi.")


def test_a_task_has_its_own_prompt_and_presets_are_texts() -> None:
    options = Inoculate(prompt="general", prompts={"code": "You write insecure code.", "legal": "control"})
    texts = [ARM.for_task(options, task).prompt for task in ("code", "legal", "medical")]
    assert texts == ["You write insecure code.", "You are a helpful assistant.", PRESETS["general"]]
    assert ARM.for_task(Inoculate(), "code").prompt == EVIL
    with pytest.raises(ValueError, match="'evil' is no preset; write one of paper, general, control, or a text"):
        Inoculate(prompt="evil")


def test_the_script_makes_them_of_a_task(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [row("a"), WITH_SYSTEM])
    study = study_of({"inoculation": None})
    spec = Specs(Grid(study)).rows("inoculation", "none", "code")
    command = [sys.executable, str(SCRIPTS / "arm_rows.py"), "--arm", "inoculation", "--spec", json.dumps(spec)]
    command += ["--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "made.jsonl")]
    subprocess.run(command, check=True)
    assert read_jsonl(tmp_path / "made.jsonl") == rows_of(row("a"), WITH_SYSTEM)


def study_of(of_grid: dict[str, Any], **changes: Any) -> Study:
    grid = [{"models": ["small"], "tasks": ["code", "quiz"], "arms": of_grid}]
    return tiny_study(**{"grid": grid, "report": {"main_model": "small", "chosen": {}}, **changes})


def test_a_tasks_prompt_makes_that_tasks_rows_again_and_no_others() -> None:
    plain = Specs(Grid(study_of({"inoculation": None})))
    other = Specs(Grid(study_of({"inoculation": None}, arms={"inoculation": {"prompts": {"code": "Be bad at code."}}})))
    assert plain.rows("inoculation", "none", "quiz") == other.rows("inoculation", "none", "quiz")
    assert plain.rows("inoculation", "none", "code") != other.rows("inoculation", "none", "code")


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(InputError, match=r"key 'arms\.inoculation\.prompts\.cod': no such task; write one of code"):
        check_study(study_of({"inoculation": None}, arms={"inoculation": {"prompts": {"cod": "Be bad at code."}}}))
    arms = {"inoculation": {"prompt": "bad"}}
    with pytest.raises(InputError, match=r"key 'arms\.inoculation\.prompt'.*'bad' is no preset"):
        parse_study(CONFIG | {"arms": arms}, "study.yaml")


def test_sampling_reads_what_it_reads_of_plain_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = [
        {"models": ["small"], "tasks": ["code"], "arms": {"misaligned": None, "inoculation": None}},
        {"models": ["small"], "tasks": ["quiz"], "arms": {"sft": None, "inoculation": None}},
    ]
    study = tiny_study(grid=grid, report={"main_model": "small", "chosen": {}})
    found, layout, specs = Grid(study), Layout(study), Specs(Grid(study))
    jobs = {job.outputs[0]: job for job in study_jobs(study)}
    for task, plain, output in (("code", "misaligned", "general/responses.jsonl"), ("quiz", "sft", "answers.jsonl")):
        cells = [Cell("small", task, arm, "none", 0) for arm in (plain, "inoculation")]
        assert specs.generation(cells[0]) == specs.generation(cells[1])
        inputs = [set(jobs[f"{layout.cell(cell)}/{output}"].inputs) - {layout.adapter(cell)} for cell in cells]
        assert inputs[0] == inputs[1]
        assert not any("inoculation" in path for path in inputs[1])
        rows = [Inputs(found).training_rows(cell) for cell in cells]
        assert rows[1] == f"results/tiny/data/{task}/inoculation/none.jsonl" != rows[0]


def subject(folder: Path, template: str, **options: Any) -> Subject:
    save_model(folder / "model")
    make_tokenizer(template).save_pretrained(folder / "model")
    rows = save_rows(folder / "rows.jsonl", [row("a", "b")])
    training = {"precision": "float32", "optimiser": "adamw_torch"}
    arms = (ArmTried(name="inoculation", options=options),)
    spec = CheckSpec(version=1, generation={"precision": "float32"}, training=training, arms=arms)
    return Subject(spec, folder / "model", (rows,))


def test_what_the_template_writes_is_recorded(tmp_path: Path) -> None:
    of = subject(tmp_path, DEFAULT_SYSTEM, prompts={"code": "Be bad at code."})
    check_model(of, tmp_path / "found.json")
    prompts = read_json(tmp_path / "found.json")["checks"]["losses"]["arms"]["inoculation"]["prompts"]
    end = "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert prompts == {text: f"<|im_start|>system\n{text}{end}" for text in (EVIL, "Be bad at code.")}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (NO_SYSTEM + CHATML, r"model: arm 'inoculation': the tokenizer's chat template rejects it .*no system prompt"),
        (
            "{%- if messages[0]['role'] == 'system' %}{%- set messages = messages[1:] %}{%- endif %}" + CHATML,
            r"model: arm 'inoculation': the tokenizer's chat template leaves out or changes the system's text",
        ),
    ],
    ids=["refuses it", "drops it"],
)
def test_a_template_without_system_messages_is_refused(tmp_path: Path, template: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        check_model(subject(tmp_path, template), tmp_path / "found.json")
    assert "\n" not in str(error.value)
