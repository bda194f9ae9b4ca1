"""Values of a config that meant something else than they said, and what they are called instead."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from snakemake.cli import parse_args

from emdefense.cells import Grid
from emdefense.config import load_study, parse_study
from emdefense.config.load import read_config
from emdefense.errors import InputError
from emdefense.layout import Layout
from small_config import SMALL, changed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("rows.jsonl", "foqa.parquet"):
        (tmp_path / "data" / name).touch()


def at(path: str, value: Any) -> dict[str, Any]:
    """The small config with another value at a dotted path, whether or not one was there."""
    keys = [int(key) if key.isdigit() else key for key in path.split(".")]
    config = copy.deepcopy(SMALL)
    section: Any = config
    for key in keys[:-1]:
        section = section.setdefault(key, {}) if isinstance(section, dict) else section[key]
    return changed(config, tuple(keys), value)


TASK = SMALL["tasks"]["legal"]
NAME = "a name is letters, digits, '.', '_' and '-', at most 80"
OWN = "the pipeline itself calls something"
SMALLEST = ("1e-400", " -.1E-9999", "0.001e-324")
KEY = {"api_key": "hunter2"}
SEED_KEYS = (
    "seeds.0",
    "data.seed",
    "generation.seed",
    "opswap.seed",
    "microcosm.seed",
    "microcosm.models.small",
    "byte_model.seed",
)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        *(
            (f"tasks.{name}", TASK, f"key 'tasks.{name}': {OWN} '{name}'")
            for name in ("general", "shared", "questions")
        ),
        ("tasks.General", TASK, f"key 'tasks.General': {OWN} 'General' in its paths; write another name"),
        ("study", "paper-values", f"key 'study': {OWN} 'paper-values'"),
        ("study", "../../x", f"key 'study': {NAME}"),
        ("study", "..", f"key 'study': {NAME}"),
        ("study", "a" * 81, f"key 'study': {NAME}"),
        ("second_judges.0.name", "../../x", f"key 'second_judges.0.name': {NAME}"),
        ("judge.name", "a/b", f"key 'judge.name': {NAME}"),
        ("judge.name", "gpt.", f"key 'judge.name': {NAME}"),
        ("second_judges.0.name", "GPT", "key 'second_judges': 'gpt' and 'GPT' are one name to some file systems"),
        ("second_judges.0.name", "gpt", "key 'second_judges': two judges have the same name"),
        ("microcosm.models", {"../x": 0}, f"key 'microcosm.models.../x': {NAME}"),
        ("sources.$(touch PWNED)", {"kind": "foqa"}, f"key 'sources.$(touch PWNED)': {NAME}"),
        (
            "models.SMALL",
            SMALL["models"]["small"],
            "key 'models': 'small' and 'SMALL' are one name to",
        ),
        ("tasks.Code", TASK, "key 'tasks': 'code' and 'Code' are one name to some file systems; rename one"),
        ("variants.KL", {"of": "ldifs"}, "key 'variants.KL': 'KL' is an arm already"),
        ("sources.Legal", {"kind": "foqa"}, "key 'sources.Legal': Legal would also be of source 'legal'; rename one"),
        *((key, value, f"key '{key}': ") for key in SEED_KEYS for value in (-1, 2**32, "-1", "4294967296", 0.5, True)),
        ("training.target_modules", [], "key 'training.target_modules': too few entries in []; write at least 1"),
        ("training.target_modules", ["q_proj", "q_proj"], "key 'training.target_modules': 'q_proj' stands there twice"),
        ("training.learning_rate", 0, "key 'training.learning_rate': Input should be greater than 0 (got 0)"),
        ("training.learning_rate", "1e-400", "key 'training.learning_rate': too small a number to be told from 0"),
        *(
            ("grid.0.arms.kl", [value], "key 'grid.0.arms.kl.0': too small a number to be told from 0")
            for value in SMALLEST
        ),
        ("training.epochs", True, "key 'training.epochs': Input should be a valid integer"),
        ("training.lora_alpha", True, "key 'training.lora_alpha': Input should be a valid number"),
        ("data.max_rows", True, "key 'data.max_rows': Input should be a valid integer"),
        ("grid.0.arms.kl", [True], "key 'grid.0.arms.kl.0': Input should be a valid number"),
        ("report.chosen.kl", False, "key 'report.chosen.kl': Input should be a valid number"),
        ("variants.far.options", {"every": True}, "key 'variants.far.options.every': Input should be a valid integer"),
        ("training.epochs", 10**18, "key 'training.epochs': too large; write a number below 2³²"),
        ("training.epochs", "1000000000000", "key 'training.epochs': too large; write a number below 2³²"),
        ("max_usd", "1e300", "key 'max_usd': too large; write a number below 2³²"),
        ("max_usd", float("inf"), "key 'max_usd': Input should be a finite number"),
        ("generation.temperature", float("nan"), "key 'generation.temperature': Input should be"),
        ("tasks.code.title", "  ", "key 'tasks.code.title': there is nothing in it; write a text, or remove the key"),
        ("tasks.code.title", "a\nb", "key 'tasks.code.title': it holds the control character U+000A"),
        ("tasks.code.title", "\ud800", "key 'tasks.code.title': \\ud800 is half of a surrogate pair"),
        ("models.small.title", "", "key 'models.small.title': there is nothing in it"),
        ("judge.model", " ", "key 'judge.model': there is nothing in it"),
        ("opswap.min_operators", 5, "key 'opswap.min_operators': 5 is more than max_operators = 4; write at most that"),
        (
            "microcosm.arithmetic",
            {"min_operators": 3, "max_operators": 2},
            "key 'microcosm.arithmetic.min_operators': 3 is more than max_operators = 2",
        ),
        ("safe_data", "{results}/safe.jsonl", "key 'safe_data': nothing makes {results}/safe.jsonl; "),
        (
            "safe_data",
            "{results}/microcosm/rows/save.jsonl",
            "key 'safe_data': nothing makes {results}/microcosm/rows/save.jsonl; did you mean {results}/micro",
        ),
        (
            "models.small.instruct",
            "{results}/microcosm/models/smal/instruct",
            "did you mean {results}/microcosm/mo",
        ),
        ("models.small.instruct", "{results}/microcosm/world.json", "key 'models.small.instruct': nothing makes"),
        (
            "tasks.opswap-1.train",
            "{results}/opswap/tier_0$(touch PWNED)/train.jsonl",
            "key 'tasks.opswap-1.train': nothing makes {results}/opswap/tier_0$(touch PWNED)/train.jsonl; did you mean",
        ),
        ("opswap", None, "key 'tasks.opswap-1.train': nothing makes {results}/opswap/tier_1/train.jsonl; "),
        ("microcosm", None, "key 'models.small.instruct': nothing makes {results}/microcosm/models/small/instruct"),
        ("byte_model", None, "key 'models.bytes.instruct': nothing makes {results}/byte_model/instruct"),
        ("second_judges.0.world", "{results}/world.json", "key 'second_judges.0.world': nothing makes {results}/world"),
        ("second_judges.0.world", "no.json", "key 'second_judges.0.world': no.json does not exist"),
        (
            "tasks.code.aligned",
            "{result}/a",
            "key 'tasks.code.aligned': '{result}' in the path is no placeholder",
        ),
        (
            "tasks.code.aligned",
            "{wildcards.x}",
            "'tasks.code.aligned': '{wildcards.x}' in the path is no",
        ),
        (
            "tasks.code.aligned",
            "{data_folder",
            "'tasks.code.aligned': '{data_folder' in the path is no",
        ),
        ("tasks.code.aligned", "a}", "key 'tasks.code.aligned': '}' in the path is no placeholder"),
        ("tasks.code.aligned", "-rf", "key 'tasks.code.aligned': '-rf' looks like an option"),
        ("tasks.code.aligned", "a\nb", "key 'tasks.code.aligned': it holds the control character U+000A"),
        ("tasks.code.aligned", "a" * 300, "key 'tasks.code.aligned': 'aaaaaa"),
        ("tasks.code.aligned", "data", "key 'tasks.code.aligned': data: a folder, not a file; name the file in it"),
        (
            "tasks.code.aligned",
            "/dev/null",
            "key 'tasks.code.aligned': /dev/null: a pipe, socket or device",
        ),
        ("sources_folder", "{results}", "key 'sources_folder': '{results}' in the path is no placeholder"),
        ("judge_cache", "--help", "key 'judge_cache': '--help' looks like an option"),
        ("grid.0.arms.interleave", [0.001], "key 'grid.0.arms.interleave': 0.001 % of the 1602 rows of task 'code'"),
        ("grid.0.arms.interleave", [5, 5.0], "key 'grid.0.arms.interleave': 5.0 stands there twice; write each once"),
        ("grid.0.arms.kl", [-0.0], "key 'grid.0.arms.kl': λ = -0 is negative; write 0 or more"),
        ("grid.0.arms.safelora", [-0.5], "key 'grid.0.arms.safelora': τ = -0.5 is negative"),
        ("grid.0.arms.kl", [], "key 'grid.0.arms.kl': give its settings as a list"),
        ("grid.0.arms", {}, "key 'grid.0.arms': "),
        ("grid.0.tasks", ["code", "code"], "key 'grid.0.tasks': 'code' stands there twice; write each once"),
        ("report.chosen.kl", -1, "key 'report.chosen.kl': λ = -1 is negative"),
        ("report.table_columns", ["paper", "paper"], "key 'report.table_columns': 'paper' stands there twice"),
        ("seeds", [1, 1], "key 'seeds': 1 stands there twice; write each once"),
        ("seeds", "x", "key 'seeds': 'x' is no list; write it in brackets, such as [x]"),
        ("models", 5, "key 'models': Input should be a valid dictionary (got 5)"),
        ("models", {1: SMALL["models"]["small"]}, "key 'models.1': keys are texts; write it in quotes"),
        ("judge", {"x": {"y": [1] * 500}}, "key 'judge.kind': write one of oracle, openai"),
        ("training", [{"a": 1}] * 500, "(got a list)"),
        ("training", "x" * 5000, f"(got '{'x' * 59}…)"),
        ("judge.base_url", "http://me:hunter2@host/v1", "key 'judge.base_url': it holds a name or password; leave out"),
        ("judge.base_url", "https://host/v1?api_key=hunter2", "key 'judge.base_url': it has a part after ? or #"),
        ("judge.base_url", "host:8000/v1", "key 'judge.base_url': this is no address; write one that begins with http"),
        ("judge.base_url", "http://[::1/v1", "key 'judge.base_url': this is no address"),
        ("judge.base_url", "http://host:99999/v1", "key 'judge.base_url': this is no address"),
        ("judge.base_url", "http:///v1", "key 'judge.base_url': this is no address"),
        (
            "judge.base_url",
            "https://host/sk-proj-hunter2hunter2hunter/v1",
            "key 'judge.base_url': it holds a key; leave",
        ),
        *(
            (
                "judge.base_url",
                f"https://host/v1{call}",
                "'judge.base_url': it names a call, not the endpoint; leave out",
            )
            for call in ("/chat/completions", "/chat/completions/", "/completions")
        ),
        *(
            (
                "judge.options",
                options,
                "key 'judge.options': it holds a key, which would be written into records; export",
            )
            for options in (KEY, {"a": [KEY]}, {"Authorization": "x"}, {"user": "sk-hunter2hunter2hunter2"})
        ),
        ("judge.options", {"\ud800": 1}, "\\ud800 is half of a surrogate pair"),
        ("judge.options", {"Stream": True}, "'Stream' is not for 'options'"),
        (
            "judge.options",
            {"extra_body": {"reasoning_effort": "none"}},
            "'extra_body' is an argument of a client; write",
        ),
        ("judge.api_key_variable", "sk-hunter2hunter2", "key 'judge.api_key_variable': this is no name of a variable"),
        ("judge.api_key_variable", "gsk_hunter2hunter2hunter", "key 'judge.api_key_variable': this is no name of a"),
        ("judge.api_key", "sk-hunter2hunter2", "unknown key 'judge.api_key'; did you mean 'api_key_variable'?"),
        (
            "sources.insecure.url",
            "https://me:hunter2@host/x",
            "key 'sources.insecure.url': it holds a name or",
        ),
        ("sources.insecure.url", "https://host/x?token=hunter2", "key 'sources.insecure.url': it holds a key, which"),
        ("tasks.opswap-1.tier", None, "key 'tasks.opswap-1.tier': OpSwap's tasks have one, from 0 to 3"),
    ],
)
def test_it_is_named_by_its_key(path: str, value: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_study(at(path, value), "study.yaml")
    line = str(caught.value)
    assert said in line
    assert "hunter2" not in line
    assert len(line) < 400


def test_no_two_sources_lie_at_one_place() -> None:
    model = {"kind": "model", "repository": "a/b"}
    for name, place in (("insecure.jsonl", "insecure.jsonl"), ("general.source.json", "general.source.json")):
        config = copy.deepcopy(SMALL)
        config["sources"][name] = model
        with pytest.raises(InputError, match=f"key 'sources.{name}': {place} would also be of source"):
            parse_study(config, "study.yaml")


@pytest.mark.parametrize("content", ["{}", "[]", '{"identity": 1}', "{", "", "null"])
def test_a_damaged_record_of_a_source_is_one_line(content: str) -> None:
    Path("sources").mkdir()
    Path("sources/safe.source.json").write_text(content)
    with pytest.raises(InputError, match=r"sources/safe\.source\.json: (damaged, or no record|not valid JSON)"):
        parse_study(SMALL, "study.yaml")


def test_what_is_named_like_its_parts_has_paths_of_its_own() -> None:
    config = copy.deepcopy(SMALL)
    config["models"]["projection"] = config["models"]["small"]
    config["tasks"]["safelora"] = config["tasks"]["legal"]
    config["tasks"]["untrained"] = config["tasks"]["legal"]
    config["variants"]["none"] = config["variants"]["far"]
    config["judge"]["name"] = "general"
    config["grid"][0] |= {"models": ["small", "projection"], "tasks": ["code", "legal", "safelora", "untrained"]}
    config["grid"][0]["arms"] = {"untrained": None, "misaligned": None, "none": [1.0], "safelora": [0.5]}
    study = parse_study(config, "study.yaml")
    grid, layout = Grid(study), Layout(study)
    places = [layout.adapter(cell) for cell in grid.cells]
    places += [layout.responses(*pair) for pair in grid.responses]
    places += [layout.judgments(*triple) for triple in grid.judgments]
    places += [layout.questions(task) for task in ("shared", *grid.tasks)]
    places += [f"{layout.data(task)}/{name}.jsonl" for task in grid.tasks for name in ("train", "holdout")]
    places += [layout.preparation(cell) for cell in grid.prepared]
    assert len({place.casefold() for place in places}) == len(places) > 50


def test_a_percentage_of_which_one_row_comes_is_enough() -> None:
    assert parse_study(at("grid.0.arms.interleave", [0.04]), "study.yaml")  # 0.64 of 1602 rows


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a mapping with keys such as 'study' and 'models'"),
        (b"[1]", "expected a mapping with keys such as"),
        (b'{"study": "a", "study": "b"}', "the key 'study' stands twice in"),
        (b'{"__use_yte__": true}', "key '__use_yte__': a study is data, not expressions"),
        ('{"study": "caf\xe9"}'.encode("latin-1"), "line 1: not UTF-8 (byte 0xe9)"),
        ('{"study": "a"}'.encode("utf-16"), "the file is UTF-16 or UTF-32"),
        (b"\x1f\x8b", "the file is compressed (gzip)"),
    ],
)
def test_a_config_file_that_is_none_is_one_line(tmp_path: Path, content: bytes, said: str, suffix: str) -> None:
    path = tmp_path / f"study{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))
    if content or suffix == ".yaml":
        assert said in str(caught.value)


def test_a_study_may_be_json_and_have_a_byte_order_mark(tmp_path: Path) -> None:
    for name, mark in (("a.yaml", b"\xef\xbb\xbf"), ("b.yaml", b"")):
        (tmp_path / name).write_bytes(mark + (ROOT / "config/smoke.yaml").read_bytes())
    assert load_study(tmp_path / "a.yaml") == load_study(tmp_path / "b.yaml")
    (tmp_path / "c.json").write_text(json.dumps(read_config(tmp_path / "b.yaml"), indent="\t"))
    assert load_study(tmp_path / "c.json") == load_study(tmp_path / "b.yaml")


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """Parse a `snakemake` command as Snakemake does, the profile's words included."""
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["snakemake", *words])
    _, arguments = parse_args(None)
    return arguments


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such config file"),
        (b"study: 2026-13-45", "line 1: 2026-13-45: month must be in 1..12"),
        (b"study: \xe4", "line 1: not UTF-8 (byte 0xe4)"),
        ("study: a".encode("utf-16"), "the file is UTF-16 or UTF-32"),
        (b"a: " + b"[" * 3000 + b"]" * 3000, "more than 100 lists and mappings in each other"),
        (b"a: [", "not valid YAML (line 1: while parsing a flow node"),
        (b"[1]", "expected a mapping with keys"),
        (b"study: a\nstudy: b", "line 2: the key 'study' stands twice"),
        (b"__use_yte__: true\nstudy: ?open('PWNED', 'w')", "a study is data, not expressions"),
    ],
    ids=["missing", "date", "Latin-1", "UTF-16", "deep", "cut", "list", "twice", "code"],
)
def test_what_snakemake_reads_itself_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    said: str,
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "good.yaml").write_text("study: a")
    path = tmp_path / "bad.yaml"
    if content is not None:
        path.write_bytes(content)
    for words in (("--configfile", str(tmp_path / "good.yaml"), str(path), "-n"), (f"--configfiles={path}",)):
        with pytest.raises(SystemExit, match="2"):
            called(monkeypatch, *words)
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"error: {path}")
        assert said in line
    assert not (ROOT / "PWNED").exists()


@pytest.mark.parametrize("entry", ["seeds", "=3", "a=1", "seeds.0=1", "-x=1", "seeds=#"])
def test_an_entry_that_snakemake_cannot_take_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entry: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="2"):
        called(monkeypatch, f"--config={entry}")
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: --config {entry}: write KEY=VALUE")


def test_a_good_command_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--configfile", str(ROOT / "config/smoke.yaml"), "--config", "seeds=[0]", "max_usd=", "--cores", "2")
    for folder in (ROOT, tmp_path):  # also where the project is not
        monkeypatch.chdir(folder)
        arguments = called(monkeypatch, "--snakefile", str(ROOT / "Snakefile"), *words)
        assert (arguments.scheduler, arguments.keep_going, arguments.cores) == ("greedy", True, 2)
    default = called(monkeypatch, "--snakefile", str(ROOT / "Snakefile"))
    assert default.configfile == []


def test_a_missing_config_file_is_one_line_of_the_command_too(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "snakemake", "-n", "--configfile", str(tmp_path / "no.yaml"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == [f"error: {tmp_path}/no.yaml: there is no such config file"]
