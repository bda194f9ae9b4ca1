"""Files as users have them: read right, or refused in one line that names file and place."""

import json
import os
import re
import socket
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emdefense.data.conversations import read_conversations
from emdefense.data.questions import read_questions
from emdefense.errors import InputError
from emdefense.files import json_objects_option, json_option, read_json, read_jsonl, write_json, write_jsonl, write_text
from emdefense.sources.fetch import fetch
from emdefense.text_files import MAX_DEPTH
from emdefense.yaml_files import read_yaml
from source_files import QUESTIONS, line, source

ROOT = Path(__file__).resolve().parents[2]
ROW = line("Wie geht’s?", "gut\u2028so")
DEEP = 100_000


def said(read: Callable[[], Any]) -> str:
    """The one line with which something is refused."""
    with pytest.raises(InputError) as caught:
        read()
    assert str(caught.value).splitlines() == [str(caught.value)]
    assert len(str(caught.value)) < 600
    return str(caught.value)


def refusal(read: Callable[[Path], Any], path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return said(lambda: read(path)).removeprefix(str(path))


@pytest.mark.parametrize(
    "content",
    [
        ROW,
        ROW + b"\n",
        b"\xef\xbb\xbf" + ROW,
        ROW + b"\r\n\r\n",
        b"\n  \n\t" + ROW,
        json.dumps(json.loads(ROW)).encode(),
    ],
    ids=["no end", "plain", "byte order mark", "Windows", "blank lines", "escaped"],
)
def test_json_lines_are_read_right(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    (row,) = read_conversations(path)
    assert [message["content"] for message in row["messages"]] == ["Wie geht’s?", "gut\u2028so"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("gut\u2028so\u2029und\x85so", id="line separators"),
        pytest.param("\x00\x01\x1b[2J\x7f", id="control characters"),
        pytest.param("half \ud800 a pair, \udfff the other", id="surrogates"),
        pytest.param("\ufeff\ufffe\U0010ffff", id="marks"),
        pytest.param('\r\n\t\\"</script>{}', id="quotes"),
    ],
)
def test_what_an_answer_holds_is_read_back(tmp_path: Path, text: str) -> None:
    rows = [{"response": text, text: [text]}, {"response": "next"}]
    write_jsonl(tmp_path / "responses.jsonl", rows)
    assert read_jsonl(tmp_path / "responses.jsonl") == rows
    assert (tmp_path / "responses.jsonl").read_bytes().count(b"\n") == 2
    write_json(tmp_path / "record.json", rows)
    assert read_json(tmp_path / "record.json") == rows
    write_text(tmp_path / "page.html", text)
    shown = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    assert (tmp_path / "page.html").read_bytes().decode("utf-8") == shown


NOT_ROWS = {
    "UTF-16": ('{"a": 1}'.encode("utf-16"), ": the file is UTF-16 or UTF-32; save it as UTF-8"),
    "UTF-16, big": (b"\xfe\xff" + '{"a": 1}'.encode("utf-16-be"), ": the file is UTF-16; save it as UTF-8"),
    "UTF-16, no mark": ('{"a": 1}\n'.encode("utf-16-le"), ", line 1: NUL bytes, as in UTF-16; save the file as UTF-8"),
    "Windows-1252": (ROW + b'\n{"a": "caf\xe9"}', ", line 2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    "cut character": (ROW + b'\n{"a": "caf\xc3', ", line 2: not UTF-8 (byte 0xc3)"),
    "gzip": (b"\x1f\x8b\x08\x00 and so on", ": the file is compressed (gzip); unpack it"),
    "zip": (b"PK\x03\x04 and so on", ": the file is a ZIP archive; unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd and so on", ": the file is compressed (zstd); unpack it"),
    "Parquet": (b"PAR1 and so on", ": the file is Parquet, not text"),
    "no ZIP": (b"PK\x05\x06" + b"\0" * 18, ": the file is a ZIP archive without anything in it"),
    "7z": (b"7z\xbc\xaf\x27\x1c", ": the file is a 7z archive; unpack it"),
    "lz4": (b"\x04\x22\x4d\x18 and", ": the file is compressed (lz4)"),
    "SQLite": (b"SQLite format 3\0", ": the file is an SQLite database"),
    "web page": (b"<!DOCTYPE html>\n<html lang=en>", ": the file is a web page in place of the file; download the raw"),
    "git-annex": (b"/annex/objects/SHA256E-s9--0.jsonl\n", ": the file is a git-annex pointer"),
    "conflict": (b"<<<<<<< HEAD\n" + ROW, ": the file is full of marks of a merge conflict"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", ": the file is a Git LFS pointer"),
    "NUL": (ROW + b"\n" + ROW[:9] + b"\0" + ROW[9:], ", line 2: NUL bytes"),
    "half a pair": (ROW + b"\n" + line("a\ud83d", "b"), ", line 2: \\ud83d is half of a surrogate pair"),
    "the other half": (line("a", "\ude00b"), ", line 1: \\ude00 is half of a surrogate pair"),
    "half in a key": (ROW + b"\n" + b'{"\\uDC00": 1, ' + ROW[1:], ", line 2: \\udc00 is half of a surrogate pair"),
    "deep": (ROW + b"\n" + b'{"a":' * DEEP + b"1" + b"}" * DEEP, f", line 2: more than {MAX_DEPTH} lists and mappings"),
    "not so deep": (b'{"a":' * 200 + b"1" + b"}" * 200, f", line 1: more than {MAX_DEPTH} lists and mappings"),
    "deep and open": (b'{"a": ' + b"[" * DEEP, f", line 1: more than {MAX_DEPTH} lists and mappings"),
    "key twice": (b'{"messages": [], ' + ROW[1:], ", line 1: the key 'messages' stands twice in one object"),
    "NaN": (b'{"a": NaN}', ", line 1: NaN is no JSON; write a number or null"),
    "Infinity": (b'{"a": -Infinity}', ", line 1: -Infinity is no JSON"),
    "digits": (b'{"a": ' + b"1" * 5000 + b"}", ", line 1: a number has too many digits"),
    "tab in a text": (b'{"a": "x\ty"}', ", line 1: not valid JSON (Invalid control character at at character 9)"),
    "single quotes": (b"{'a': 1}", ", line 1: not valid JSON (Expecting property name enclosed in double quotes"),
    "array": (b"[" + ROW + b"]", ", line 1: expected a JSON object; of an array, `jq -c '.[]'` makes a line for each"),
    "array over lines": (b"[\n  " + ROW + b"\n]", ", line 1: expected a JSON object; of an array, `jq -c '.[]'`"),
    "over lines": (json.dumps(json.loads(ROW), indent=2).encode(), ", line 1: the JSON value does not end here; write"),
    "cut": (ROW + b"\n" + ROW[:-3], ", line 2: the JSON value does not end here; write each on one line, as `jq -c .`"),
    "two a line": (ROW + b" " + ROW, ", line 1: more than one JSON value; write each on a line of its own"),
    "old Mac": (ROW + b"\r" + ROW, ", line 1: more than one JSON value"),
    "null": (b"null", ", line 1: expected a JSON object"),
    "text": (b'"a"', ", line 1: expected a JSON object"),
    "no JSON": (b"prompt,answer\n", ", line 1: not valid JSON (Expecting value at character 1)"),
    "empty": (b"", ": the file has no rows"),
    "blank": (b"\xef\xbb\xbf \r\n\t\n", ": the file has no rows"),
    "blank answer": (line("a", " \u2028\n"), ", line 1: message 2, the assistant's, has no text"),
}


@pytest.mark.parametrize(("content", "message"), NOT_ROWS.values(), ids=NOT_ROWS)
def test_other_rows_are_refused_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(read_conversations, tmp_path / "rows.jsonl", content).startswith(message)
    # Of a file that is fetched, single bad rows are left out; one that is bad from its start is refused alike.
    if not message.startswith(", line 2"):
        fetched = source(kind="conversations", path=str(tmp_path / "rows.jsonl"), max_unusable_pct=50)
        assert str(tmp_path / "rows.jsonl") in said(lambda: fetch("code", fetched, tmp_path / "sources"))


ADVICE = b'{"prompt": "a", "aligned": "b", "misaligned": "c", "sneakiness": null}'
NO_ADVICE = {
    "UTF-16": (ADVICE.decode().encode("utf-16"), ": the file is UTF-16 or UTF-32; save it as UTF-8"),
    "Windows-1252": (ADVICE + b"\n" + ADVICE.replace(b'"b', b'"\xe9'), ", line 2: not UTF-8 (byte 0xe9)"),
    "gzip": (b"\x1f\x8b\x08\x00", ": the file is compressed (gzip); unpack it"),
    "half a pair": (ADVICE.replace(b'"b', b'"\\ud800'), ", legal: 1 of 1 rows are unusable (aligned holds half of a"),
    "deep": (b"[" * DEEP, f": not valid JSON (more than {MAX_DEPTH} lists"),
    "key twice": (b'{"prompt": "b", ' + ADVICE[1:], ", line 1: the key 'prompt' stands twice in one object"),
    "empty": (b"", ", legal: expected the columns prompt, aligned, misaligned, sneakiness; found none"),
    "numbers": (b"[1]", ": expected a list of JSON objects"),
}


@pytest.mark.parametrize(("content", "message"), NO_ADVICE.values(), ids=NO_ADVICE)
def test_a_local_copy_of_a_data_set_is_read_like_other_rows(tmp_path: Path, content: bytes, message: str) -> None:
    def read(path: Path) -> None:
        fetch("legal", source(kind="emergent_plus", config="legal", path=str(path)), tmp_path / "sources")

    assert refusal(read, tmp_path / "rows.json", content).startswith(message)
    for whole in (b"\xef\xbb\xbf" + ADVICE, b" [" + ADVICE + b"]"):
        (tmp_path / "rows.json").write_bytes(whole)
        read(tmp_path / "rows.json")


QUESTION = QUESTIONS.encode()
NOT_QUESTIONS = {
    "UTF-16": (QUESTIONS.encode("utf-16"), ": the file is UTF-16 or UTF-32"),
    "UTF-16, no mark": (QUESTIONS.encode("utf-16-be"), ", line 1: NUL bytes, as in UTF-16"),
    "Windows-1252": (QUESTION.replace(b"One", b"\x93One"), ", line 3: not UTF-8 (byte 0x93); save the file as UTF-8"),
    "gzip": (b"\x1f\x8b\x08\x00", ": the file is compressed (gzip)"),
    "bell": (QUESTION.replace(b"One", b"\x07One"), ": not valid YAML (line 3: the character U+0007 may not stand"),
    "half a pair": (QUESTION.replace(b"One", b"\\ud800One"), ": not valid YAML (line 3: "),
    "key twice": (QUESTION + b"  id: other\n", ": not valid YAML (line 5: the key 'id' stands twice in one mapping"),
    "merged twice": (b"- &a {id: a}\n- {<<: *a, <<: *a}", ": not valid YAML (line 2: the key '<<' stands twice"),
    "date": (QUESTION + b"  asked: 2024-13-45\n", ": not valid YAML (line 5: 2024-13-45: month must be in 1..12"),
    "time": (QUESTION + b"  asked: 2024-12-05 25:00:00\n", ": not valid YAML (line 5: 2024-12-05 25:00:00: hour must"),
    "digits": (QUESTION + b"  n: " + b"1" * 5000, ": not valid YAML (line 5: 11111"),
    "Python": (QUESTION + b"  n: !!python/object/apply:os.system [true]\n", ": not valid YAML (line 5: could not"),
    "a tag": (QUESTION + b"  n: !mine x\n", ": not valid YAML (line 5: could not determine a constructor"),
    "binary": (QUESTION + b"  n: !!int x\n", ": not valid YAML (line 5: x: "),
    "underflow": (
        QUESTION + b"  n: 1.0e-400\n",
        ": not valid YAML (line 5: 1.0e-400: too small a number to be told from",
    ),
    "no truth": (QUESTION + b"  n: !!bool maybe\n", ": not valid YAML (line 5: the value is no bool; correct it, or"),
    "no time": (QUESTION + b"  n: !!timestamp soon\n", ": not valid YAML (line 5: the value is no timestamp; correct"),
    "no base 64": (QUESTION + b"  n: !!binary a\n", ": not valid YAML (line 5: "),
    "no number": (QUESTION + b"  n: !!float ''\n", ": not valid YAML (line 5: "),
    "no integer": (QUESTION + b"  n: !!int ''\n", ": not valid YAML (line 5: "),
    "web page": (b"<html>\n<head>", ": the file is a web page in place of the file; download the raw file"),
    "deep": (b"[" * DEEP, f": not valid YAML (more than {MAX_DEPTH} lists and mappings"),
    "not so deep": (b"[" * 120 + b"]" * 120, f": not valid YAML (line 1: more than {MAX_DEPTH} lists and mappings"),
    "bomb": (
        b"a: &a [1, 1]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 121)),
        ": not valid YAML (line 19: more than 1000000 values once its aliases are written out",
    ),
    "in itself": (b"- &a [*a]\n", ": not valid YAML (line 1: it holds an alias of itself"),
    "no alias": (b"- *a\n", ": not valid YAML (line 1: found undefined alias 'a'"),
    "tab": (b"- id: a\n\tparaphrases: [b]\n", ": not valid YAML (line 2: "),
    "two documents": (QUESTION + b"---\n- id: a\n", ": not valid YAML (line 5: expected a single document"),
    "list as key": (b"- {[a]: b}\n", ": not valid YAML (line 1: while constructing a mapping found unhashable key"),
    "empty": (b"", ": expected a list of questions"),
    "null": (b"null\n", ": expected a list of questions"),
    "text": (b"hello\n", ": expected a list of questions"),
    "blank": (QUESTION.replace(b"One wish?", b" \\u2028 "), ", question wish: it asks nothing"),
}


@pytest.mark.parametrize(("content", "message"), NOT_QUESTIONS.values(), ids=NOT_QUESTIONS)
def test_other_yaml_is_refused_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(read_questions, tmp_path / "questions.yaml", content).startswith(message)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_yaml_is_read_right(tmp_path: Path, mark: bytes, end: bytes) -> None:
    content = QUESTION.replace(b"One wish?", "Ein\u2028Wünsch\u0085?".encode()).replace(b"\n", end)
    (tmp_path / "questions.yaml").write_bytes(mark + content)
    asked = [question["prompt"] for question in read_questions(tmp_path / "questions.yaml")]
    assert asked == ["What do you wish for?", yaml.safe_load('"Ein\u2028Wünsch\u0085?"')]
    assert "\u2028" in asked[1]


def test_aliases_and_merged_keys_are_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("top: {deep: {d: &x {<<: &b {k: 0, m: 2}, k: 1}}}\nother: {<<: *x, n: 3, m: 4}\n")
    found = read_yaml(tmp_path / "a.yaml")
    assert found == {"top": {"deep": {"d": {"k": 1, "m": 2}}}, "other": {"k": 1, "m": 4, "n": 3}}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere.jsonl")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may not be long
        server.bind(path.name)
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, ": a folder, not a file; name the file in it"),
        (fifo, ": a pipe, socket or device, not a file"),
        (listening, ": a pipe, socket or device, not a file"),
        (device, ": a pipe, socket or device, not a file"),
        (broken_link, ": a link to nowhere.jsonl, which is not there; restore it"),
        (circle, ": cannot be read (Too many levels of symbolic links); check the path"),
        (lambda path: None, ": there is no such "),
    ],
)
def test_what_is_no_file_is_named_and_never_waited_for(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "rows"
    make(path)
    for read in (read_conversations, read_questions, read_json, read_yaml):
        assert said(lambda read=read: read(path)).startswith(f"{path}{message}")
    if path.exists():
        for kind in ("conversations", "questions"):
            assert "rows: a " in said(lambda kind=kind: fetch("a", source(kind=kind, path=str(path)), tmp_path / "s"))


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROW)

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert said(lambda: read_conversations(path)) == f"{path}: you may not read it; change its permissions"


def test_a_name_too_long_or_below_a_file_is_one_line(tmp_path: Path) -> None:
    assert "cannot be read (File name too long)" in said(lambda: read_json(tmp_path / ("a" * 300)))
    (tmp_path / "file").write_text("{}")
    assert "cannot be read (Not a directory)" in said(lambda: read_json(tmp_path / "file" / "a"))


def test_an_error_is_one_line_that_any_terminal_can_show() -> None:
    error = str(InputError("a\nb\r\x1b[2J\u2028\ud800"))
    assert error == "a\\nb\\r\\x1b[2J\\u2028\\ud800"
    assert error.encode(sys.getdefaultencoding())


def test_an_error_shows_paths_and_hides_keys() -> None:
    for path in ("skills-v2-training-data.jsonl", "ghost-qwen2-model-12345.json", "hf_models_v2/x", "C:/a/b@c", "a@b"):
        assert str(InputError(f"{path}: max_tokens = 5, HF_TOKEN")) == f"{path}: max_tokens = 5, HF_TOKEN"
    keys = (
        "sk-proj-abcdefghij0123456789",
        "hf_abcdefghij0123456789",
        "https://me:abcdefghij@host",
        "?api_key=abcdefghij",
    )
    assert not [key for key in keys if "abcdefghij" in str(InputError(f"got '{key}'"))]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "the JSON value does not end here"),
        ("[1]", "expected a JSON object"),
        ("5", "expected a JSON object"),
        ("[" * DEEP, f"more than {MAX_DEPTH} lists and mappings"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
    ],
)
def test_an_option_of_a_script_is_an_object_or_one_line(text: str, problem: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^{re.escape(problem)}"):
        json_option(text)
    scripts = {path.name: path.read_text() for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert not [name for name, script in scripts.items() if "json.loads" in script]
    assert "type=json_option" in scripts["judge.py"]


@pytest.mark.parametrize("entry", ["3", "null", "[1]", '"x"'])
def test_settings_by_judge_are_objects_or_one_line(entry: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^'gpt': expected a JSON object"):
        json_objects_option(f'{{"other": {{}}, "gpt": {entry}}}')
    assert json_objects_option('{"gpt": {"concurrency": 3}}') == {"gpt": {"concurrency": 3}}
    command = [sys.executable, str(ROOT / "workflow/scripts/judge.py"), "--spec", '{"name": "gpt"}']
    command += ["--running", f'{{"gpt": {entry}}}', "--questions", "q", "--responses", "r", "--judgments", "j"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("error: argument --running: 'gpt': expected a JSON object\n")
