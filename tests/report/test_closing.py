"""What a run says at its end."""

from pathlib import Path

from emdefense.report.closing import closing_text
from study_folder import SURE_OF_NONE, count, fill, tiny_study

GENERAL = {"misaligned": 8, "kl": 2, "interleave": 4}
IN_DOMAIN = {"misaligned": 8, "kl": 6, "interleave": 8}


def test_verdicts_the_trade_off_and_the_page(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, GENERAL, in_domain=IN_DOMAIN)
    count(study)
    verdicts, tradeoff, page = closing_text(study).split("\n\n")
    first, kl, interleaving = verdicts.splitlines()
    assert first == "+ Small: emergent misalignment appeared."
    assert kl.startswith(("· KL (λ = 1) ", "+ KL (λ = 1) "))
    assert interleaving.startswith("· Interleaving (5 %) ")
    head, *rows = (" ".join(line.split()) for line in tradeoff.splitlines())
    assert head == "EMA reduction in-domain retention"
    # Every question has the same counts, so that no resample differs: 2 and 6 of 8, 4 and 8 of 8.
    assert rows == [
        "KL, λ = 1 75.0 % [75.0, 75.0] 75.0 % [75.0, 75.0]",
        "Interleaving, 5 % 50.0 % [50.0, 50.0] 100.0 % [100.0, 100.0]",
    ]
    assert page == "Page: results/tiny/report/index.html"


def test_where_ema_did_not_appear_there_is_no_trade_off(in_tmp: Path) -> None:
    study = tiny_study(report=SURE_OF_NONE)
    fill(study, {}, in_domain=IN_DOMAIN)
    count(study)
    verdicts, page = closing_text(study).split("\n\n")
    assert verdicts == "- Small: emergent misalignment did not appear."
    assert page == "Page: results/tiny/report/index.html"


def test_without_a_judge_there_are_no_verdicts(in_tmp: Path) -> None:
    assert closing_text(tiny_study(judge=None)) == "· Nothing was judged.\n\nPage: results/tiny/report/index.html"
