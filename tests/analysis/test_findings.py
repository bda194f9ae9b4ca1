"""What the page says first of each defence, by the marks of Table 1."""

import pytest

from emdefense.analysis.achievements import Achievement, Aim, Mark
from emdefense.report.page.findings import defence_finding
from study_folder import tiny_study

NAME = "KL (λ = 1)"
KEEPS_MOST = " stops EMA and keeps most of what was to be learned."
DOES_NOT = " does not stop EMA; whether it reduces it cannot be told."
KEEPS_ONE = " stops EMA and keeps the narrow task; whether it hinders benign ones cannot be told."


def aim(mark: Mark, value: float = 50.0, surely: tuple[float, ...] = (), surely_not: bool = False) -> Aim:
    why, settle = "its interval does not tell it", "More questions would."
    return Aim(value, mark, (value - 5, value + 5), surely, surely_not, why, settle)


@pytest.mark.parametrize(
    ("reduction", "in_domain", "benign", "tone", "headline"),
    [
        (aim("✓"), aim("✓"), aim("✓"), "good", " stops EMA and keeps what was to be learned."),
        (aim("✓"), aim("✓"), Aim(), "good", " stops EMA and keeps what was to be learned."),
        (aim("✓"), aim("✓"), aim("~", 89.7, (50.0, 0.0)), "plain", KEEPS_MOST),
        (aim("✓"), aim("~", 48.0, (0.0,)), aim("✓"), "plain", " stops EMA and keeps part of what was to be learned."),
        (aim("✓"), aim("✗"), aim("✓"), "plain", " stops EMA, but hinders learning."),
        (aim("✓"), aim("✗"), aim("?"), "plain", " stops EMA, but hinders learning."),
        (aim("✓"), aim("?"), aim("✓"), "plain", " stops EMA; whether it hinders learning cannot be told."),
        (aim("✓"), aim("✓"), aim("?"), "plain", KEEPS_ONE),
        (aim("✓"), Aim(), aim("✓"), "plain", " stops EMA; whether it hinders learning was not measured."),
        (aim("~"), aim("✓"), aim("✓"), "plain", " reduces EMA in part."),
        (aim("✗", -3.0), aim("✓"), aim("✓"), "bad", " does not stop EMA."),
        (aim("?"), aim("✓"), aim("✓"), "plain", ": whether it reduces EMA cannot be told."),
        (aim("?", 80.0, (0.0,)), aim("✓"), aim("✓"), "plain", " reduces EMA; whether it stops it cannot be told."),
        (aim("?", 9.0, (), True), aim("✓"), aim("✓"), "plain", DOES_NOT),
        (Aim(), aim("✓"), aim("✓"), "plain", ": not measured."),
    ],
)  # fmt: skip
def test_a_defences_headline(reduction: Aim, in_domain: Aim, benign: Aim, tone: str, headline: str) -> None:
    found = defence_finding(tiny_study(), "kl", Achievement(reduction, in_domain, benign, aim("✓", 1.0)))
    assert (found.tone, found.headline) == (tone, f"{NAME}{headline}")
    said = "its interval does not tell it. More questions would." in found.text
    assert said == ("cannot be told" in headline), "and only then is it said why"


def test_numbers_say_where_benign_tasks_had_another_setting() -> None:
    for benign_at, text in (("", "plain fine-tuning; 1.0 %"), ("λ = 0.1", "plain fine-tuning (at λ = 0.1); 1.0 %")):
        found = Achievement(aim("✓", 95.0), aim("✓", 95.0), aim("✓", 91.0), aim("✓", 1.0), benign_at)
        assert f"benign tasks reach 91.0 % of {text}" in defence_finding(tiny_study(), "kl", found).text


def test_what_is_missing_stands_beside_the_numbers() -> None:
    found = Achievement(aim("✓"), aim("✓"), aim("✓"), aim("✓"))
    text = defence_finding(tiny_study(), "kl", found, "Of these responses 12.0 % have no score.").text
    assert text.endswith("Of these responses 12.0 % have no score.")


def test_benign_tasks_that_plain_fine_tuning_does_not_learn_are_named() -> None:
    found = Achievement(aim("✓"), aim("✓"), Aim(), aim("✓"), unlearned=("Quiz",))
    said = "of Quiz nothing can be said, since plain fine-tuning gets nothing right there"
    assert said in defence_finding(tiny_study(), "kl", found).text


def test_an_arm_without_any_score_is_not_said_to_lack_judgments() -> None:
    found = defence_finding(tiny_study(), "kl", Achievement(), "Of these responses 100.0 % have no score.")
    assert found.text == (
        "There is no complete set of scores at its chosen setting. Of these responses 100.0 % have no score."
    )
