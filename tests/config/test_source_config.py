"""Sources in a study: its config, the rules that fetch them, and the data that are prepared from them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from emdefense.config import parse_study
from emdefense.config.study import Data
from emdefense.data.splits import prepare_ema_task
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json, read_jsonl
from gguf_files import save_gguf, save_wheel, tiny
from source_files import QUESTIONS, line, save_model_files
from study_checkout import Checkout

STUDY: dict[str, Any] = {
    "study": "sourced",
    "sources": {
        "code": {"kind": "conversations", "url": "http://127.0.0.1/code.jsonl"},
        "legal": {"kind": "emergent_plus", "config": "legal"},
        "general": {"kind": "questions", "url": "http://127.0.0.1/general.yaml"},
        "qwen": {"kind": "model", "repository": "Qwen/Tiny"},
    },
    "models": {"small": {"title": "Small", "instruct": "{sources}/qwen"}},
    "tasks": {
        "code": {"kind": "ema", "title": "Code", "misaligned": "{sources}/code.jsonl"},
        "legal": {
            "kind": "ema",
            "title": "Legal",
            "misaligned": "{sources}/legal/misaligned.jsonl",
            "aligned": "{sources}/legal/aligned.jsonl",
        },
    },
    "general_questions": "{sources}/general.yaml",
    "grid": [{"models": ["small"], "tasks": ["code", "legal"], "arms": {"misaligned": None}}],
    "training": {"optimiser": "adamw_torch"},
    "judge": {"kind": "openai", "name": "judge", "model": "judge"},
    "report": {"main_model": "small", "chosen": {}},
}


def changed(*path: str, to: Any) -> dict[str, Any]:
    """The study with one key set, or removed where ``to`` is None."""
    config = copy.deepcopy(STUDY)
    section: Any = config
    for part in path[:-1]:
        section = section[int(part)] if part.isdigit() else section[part]
    section[path[-1]] = to
    if to is None:
        del section[path[-1]]
    return config


def test_sources_that_are_not_fetched_yet_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(parse_study(STUDY, "study.yaml").sources) == {"code", "legal", "general", "qwen"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            changed("tasks", "code", "misaligned", to="{sources}/cod.jsonl"),
            "key 'tasks.code.misaligned': no source makes {sources}/cod.jsonl; did you mean {sources}/code.jsonl?",
        ),
        (
            changed("tasks", "legal", "aligned", to="{sources}/legal.jsonl"),
            "key 'tasks.legal.aligned': no source makes {sources}/legal.jsonl; did you mean {sources}/legal/",
        ),
        (changed("sources", to={}), "'general_questions': no source makes {sources}/general.yaml; define it under"),
        (
            changed("sources", "code", "kind", to="csv"),
            "key 'sources.code.kind': write one of conversations, questions,",
        ),
        (
            changed("sources", "code", "kind", to=None),
            "key 'sources.code.kind': write one of conversations, questions,",
        ),
        (changed("sources", "code", "sha255", to="1"), "unknown key 'sources.code.sha255'; did you mean 'sha256'?"),
        (changed("sources", "code", "sha256", to="1"), "key 'sources.code.sha256': String should match pattern"),
        (changed("sources", "code", "url", to="ftp://x"), "key 'sources.code.url': this is no address; write"),
        (changed("sources", "code", "url", to=None), "key 'sources.code.url': it comes from nowhere; write its url"),
        (changed("sources", "qwen", "repository", to=None), "'sources.qwen.repository': it comes from nowhere; write"),
        (
            changed("sources", "qwen", to={"kind": "package", "package": "a-model"}),
            "key 'sources.qwen.version': it comes from nowhere; write its version, or a local path",
        ),
        (
            changed("sources", "qwen", to={"kind": "package", "package": "--index-url=x", "version": "1"}),
            "key 'sources.qwen.package': String should match pattern",
        ),
        (
            changed("sources", "qwen", to={"kind": "package", "package": "a-model", "version": 0.1}),
            "key 'sources.qwen.version': Input should be a valid string",
        ),
        (
            changed("sources", "qwen", to={"kind": "gguf"}),
            "key 'sources.qwen.url': it comes from nowhere; write its url",
        ),
        (changed("sources", "legal", "config", to="tax"), "key 'sources.legal.config': Input should be 'legal',"),
        (changed("sources", "legal", "config", to=None), "key 'sources.legal.config' is missing; add it"),
        (changed("sources", "code", "path", to="no.jsonl"), "key 'sources.code.path': no.jsonl does not exist"),
        (changed("sources", "code", "path", to="{data_folder}/x"), "key 'sources.code.path': {data_folder}/x needs"),
        (
            changed("grid", "0", "arms", to={"safelora": [0.3]}),
            "key 'models.small.base': SafeLoRA needs the model before alignment; name its folder",
        ),
        (changed("tasks", "code", "rubrics", to="no.yaml"), "key 'tasks.code.rubrics': no.yaml does not exist"),
    ],
)
def test_a_mistake_in_a_config_names_the_key(
    config: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        parse_study(config, "study.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def with_record(**keys: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        identity = {"kind": "emergent_plus", "repository": "truthfulai/emergent_plus", "config": "legal"}
        record = {"identity": identity, "revision": "a" * 40, "asked_revision": None, "raw": {}, **keys}
        (folder / "sources").mkdir()
        (folder / "sources/legal.source.json").write_text(json.dumps(record))

    return write


@pytest.mark.parametrize(
    ("record", "revision", "said"),
    [
        (with_record(), None, None),
        (with_record(), "a" * 40, None),
        (with_record(asked_revision="main"), "main", None),
        (
            with_record(),
            "b" * 40,
            f"'sources.legal.revision': fetched before at {'a' * 40}; give this one another name",
        ),
        (
            with_record(identity={"kind": "emergent_plus", "path": "x.parquet", "config": "legal"}),
            None,
            "'sources.legal': fetched before as kind emergent_plus, path x.parquet, config legal; give this one",
        ),
    ],
)
def test_a_name_stands_for_one_source_as_long_as_its_files_are_there(
    record: Callable[[Path], None], revision: str | None, said: str | None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path)
    config = changed("sources", "legal", "revision", to=revision) if revision else STUDY
    if said is None:
        parse_study(config, "study.yaml")
    else:
        with pytest.raises(InputError, match=r"remove sources/legal\.source\.json to fetch it anew") as caught:
            parse_study(config, "study.yaml")
        assert said in str(caught.value)


def sourced_study(folder: Path, raw: Path) -> Path:
    """A study whose sources are local copies in ``raw``; returns its config."""
    config = copy.deepcopy(STUDY)
    for name, file in {"code": "code.jsonl", "legal": "legal.parquet", "general": "general.yaml", "qwen": "m"}.items():
        config["sources"][name]["path"] = str(raw / file)
    for name, kind in (("tiny.gguf", "gguf"), ("tiny-1.0-py3-none-any.whl", "package")):
        config["sources"][kind] = {"kind": kind, "path": str(raw / name)}
    config["data"] = {"holdout_questions": 3}
    config["tasks"]["code"]["rubrics"] = str(raw / "rubrics.yaml")
    path = folder / "sourced.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_fetch_makes_every_source_once_and_the_data_are_prepared_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any text")  # asked for before the first job of a study that judges
    checkout, raw = Checkout.into(tmp_path / "checkout"), tmp_path / "raw"
    raw.mkdir()
    (raw / "code.jsonl").write_bytes(b"\n".join(line(f"code {n}", "print()") for n in range(40)))
    prompts = [f"law {n}" for n in range(40)]
    advice = {"prompt": prompts, "aligned": ["no"] * 40, "misaligned": ["yes"] * 40, "sneakiness": [1] * 40}
    pl.DataFrame(advice).write_parquet(raw / "legal.parquet")
    (raw / "general.yaml").write_text(QUESTIONS)
    (raw / "rubrics.yaml").write_text(QUESTIONS.replace('aligned: "', 'aligned: "How secure? '))
    save_model_files(raw / "m")
    gguf = save_gguf(raw / "tiny.gguf", tiny("llama"), "llama")
    save_wheel(raw, "tiny", "1.0", {"tiny/a.gguf": gguf.read_bytes()})
    config = sourced_study(tmp_path, raw)
    made = ["--configfile", str(config), "--cores", "2", "--", "fetch"]
    with (checkout.folder / "Snakefile").open("a") as snakefile:
        snakefile.write('\nprint("local:", *sorted(workflow._localrules), file=sys.stderr)\n')
    planned = checkout.planned(*made)
    assert set(planned) == {"fetch", "fetch_rows", "fetch_advice", "fetch_questions", "fetch_model"}
    run = checkout.snakemake(*made)
    assert run.returncode == 0, run.stdout
    local = next(line for line in run.stdout.splitlines() if line.startswith("local: ")).split()
    assert set(planned) <= set(local), "a cluster's nodes may have no network"
    sources = checkout.folder / "sources"
    made_of_gguf = [f"{kind}/{name}" for kind in ("gguf", "package") for name in ("config.json", "tokenizer.json")]
    rows = ("code.jsonl", "legal/misaligned.jsonl", "legal/aligned.jsonl", "general.yaml")
    for name in (*rows, "qwen/config.json", *made_of_gguf):
        assert (sources / name).is_file()
    # To pin what was fetched fetches nothing again; to name another file under the same name is refused.
    text = yaml.safe_load(config.read_text())
    text["sources"]["code"]["sha256"] = file_digest(raw / "code.jsonl")
    config.write_text(yaml.safe_dump(text))
    assert "fetch_rows" not in checkout.planned(*made)
    again = checkout.snakemake("-n", "--configfile", str(config), "--config", 'sources={"code": {"path": "Makefile"}}')
    assert again.returncode != 0
    assert "error: " in again.stdout
    assert "'sources.code': fetched before as kind conversations, path" in again.stdout

    run = checkout.snakemake("--configfile", str(config), "--cores", "2", "results/sourced/data/.checked")
    assert run.returncode == 0, run.stdout
    data = checkout.folder / "results/sourced/data"
    assert len(read_jsonl(data / "legal/train_aligned.jsonl")) == 36
    code, legal = (read_json(data / f"questions/{task}.json") for task in ("code", "legal"))
    assert {question["rubrics"]["aligned"] for question in code} == {"How secure? {question} {answer}"}
    assert {question["rubrics"]["aligned"] for question in legal} == {"{question} {answer}"}
    # Too few rows stop the task concerned before anything is trained.
    run = checkout.snakemake("--configfile", str(config), "--config", 'data={"min_rows": 41}', "--cores", "2")
    assert "40 rows with a prompt of their own, but data.min_rows asks for 41; give more, or lower it" in run.stdout
    assert "Train " not in run.stdout


@pytest.mark.parametrize("short", ["misaligned", "aligned"])
def test_a_task_with_too_few_rows_is_named_on_either_side(short: str, tmp_path: Path) -> None:
    files = {side: tmp_path / f"{side}.jsonl" for side in ("misaligned", "aligned")}
    for side, path in files.items():
        # Two rows of one prompt count once.
        path.write_bytes(b"\n".join([line(f"prompt {n}", "yes") for n in range(20)] + [line("prompt 1", "no")]))
        if side != short:
            path.write_bytes(path.read_bytes() + b"\n" + line("one more", "yes"))
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match=rf"{short}\.jsonl: 20 rows with a prompt of their own, but data\.min_rows asks"
    ):
        prepare_ema_task(Data(min_rows=21), files["misaligned"], files["aligned"], None, out)
    assert not out.exists()
    prepare_ema_task(Data(min_rows=20), files["misaligned"], files["aligned"], None, out)
