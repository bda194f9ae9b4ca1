import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from emdefense.report.divergences import divergences
from emdefense.report.figures import NAMES
from emdefense.report.published import write_paper_values
from emdefense.report.untrusted import MAX_CHARACTERS, readable
from study_folder import fill, page, tiny_study

HOSTILE = (
    "</td></blockquote><script>alert(1)</script><img src=x onerror=alert(2)>" + "\u202e\x00\u2066" + "long " * 200_000
)


class Tags(HTMLParser):
    """Collects tags, their ids, and every reference to something outside."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "href", "xlink:href"} and not str(value).startswith("#"):
                self.outside.append(str(value))


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_is_self_contained_and_escapes_what_models_say(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 1}, text=HOSTILE)
    text = page(study)
    found = Tags()
    found.feed(text)
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert found.outside == []
    assert not re.search(r"url\((?!#)", text)
    assert len(found.ids) == len(set(found.ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(found.ids)
    assert "&lt;script&gt;alert(1)" in text
    assert "long " * (MAX_CHARACTERS // 5) not in text  # a long response is cut
    assert "alert(2)&gt;[U+202E][U+0000][U+2066]long long" in text
    assert not {"\u202e", "\x00", "\u2066"} & set(text)
    assert len(text) < 2_000_000
    assert found.tags.count("svg") == len(NAMES) + 1  # how the trainings went
    for number in range(1, 12):
        assert f'id="table-{number}"' in text


def test_what_cannot_be_seen_is_spelt_out_and_the_rest_stays() -> None:
    seen = "Ünïcode, 日本語, עברית, 🦀, \ttab\nnew line &<>\"'"
    assert readable(seen) == seen
    assert readable("a\u202eb\u200b\u2028\x1b[31m\ud800\r") == "a[U+202E]b[U+200B][U+2028][U+001B][31m[U+D800][U+000D]"
    assert readable("x" * 10**6, 5) == "xxxxx […]"
    assert len(readable("\u202e" * 10**6)) < 9 * MAX_CHARACTERS


def test_verdicts_come_first_and_say_that_ema_appeared(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 1, "interleave": 6})
    text = page(study)
    assert text.index("emergent misalignment appeared") < text.index('id="table-1"')
    assert (
        "80.0 % of the answers to general questions are misaligned (mean over 2 tasks), against 0.0 % untrained" in text
    )
    assert "Interleaving (5 %) does not stop EMA." in text


def test_without_ema_the_page_says_that_defences_cannot_be_read(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 0})
    text = page(study)
    assert "emergent misalignment did not appear" in text
    assert "stops EMA" not in text


def test_divergences_of_the_microcosm_stand_only_on_its_page() -> None:
    everywhere = {entry.topic for entry in divergences(tiny_study())}
    microcosm = {entry.topic for entry in divergences(tiny_study(microcosm={"models": {"a": 0}}))}
    assert {"LDIFS", "KL", "SafeLoRA"} <= everywhere
    assert {"Judge", "Incoherence"} <= microcosm - everywhere


def test_paper_values_are_rendered_whole(tmp_path: Path) -> None:
    write_paper_values(tmp_path)
    assert len(list((tmp_path / "tables").iterdir())) == 11 * 4
    assert len(list((tmp_path / "figures").iterdir())) == 5 * 3
    assert (tmp_path / "claims.md").is_file()
    assert (tmp_path / "claims.json").is_file()
