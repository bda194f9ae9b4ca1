import json
from pathlib import Path

import pytest

from emdefense.analysis.claims import DIFFERS, HOLDS, NO_EMA, NOT_MEASURED, Verdict, judge_claims
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.summary import Summary, no_summary, read_summary
from emdefense.config import Study
from emdefense.report.claims import write_claims
from study_folder import fill, tiny_study


def verdicts(study: Study, summary: Summary) -> dict[str, Verdict]:
    return {v.claim.id: v for v in judge_claims(study, summary, paper_study(), paper_summary())}


def test_the_papers_own_tables_give_its_figures() -> None:
    found = verdicts(paper_study(), no_summary())
    # By hand from Tables 3 and 4.
    kl = 100 - 25 * (0.38 / 4.01 + 2.21 / 25.29 + 1.58 / 19.75 + 2.04 / 26.25)
    assert found["kl-reduction-main"].recomputed == pytest.approx(kl)
    assert found["kl-reduction-main"].recomputed == pytest.approx(91.5, abs=0.05)
    assert found["interleaving-reduction-main"].recomputed == pytest.approx(87.1, abs=0.1)
    assert found["kl-reduction-second"].recomputed == pytest.approx(92.9, abs=0.05)
    assert found["interleaving-reduction-second"].recomputed == pytest.approx(90.4, abs=0.05)
    assert found["interleaving-incoherence-security"].recomputed == pytest.approx(100 * (26.05 / 19.38 - 1))
    follow = {name for name, verdict in found.items() if verdict.follows}
    assert follow == set(found) - {"safelora-in-domain", "kl-in-domain"}


def test_the_claim_that_does_not_follow_is_shown_as_such(tmp_path: Path) -> None:
    found = verdicts(paper_study(), no_summary())
    assert found["safelora-in-domain"].recomputed == pytest.approx(51.2, abs=0.05)
    assert found["safelora-in-domain"].recomputed_without == pytest.approx(46.9, abs=0.05)
    assert found["kl-in-domain"].recomputed == pytest.approx(49.1, abs=0.05)
    assert found["kl-in-domain"].recomputed_without == pytest.approx(42.4, abs=0.05)
    write_claims(list(found.values()), paper_study(), tmp_path / "claims")
    text = (tmp_path / "claims.md").read_text()
    assert "51.2 % (46.9 % without medical)" in text
    assert text.count("**does not follow**") == 2
    rows = json.loads((tmp_path / "claims.json").read_text())
    assert [row["follows_from_paper"] for row in rows] == [True] * 5 + [False] * 2
    assert {row["verdict"] for row in rows} == {NOT_MEASURED}


def test_ours_is_judged_against_the_papers_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from emdefense.analysis.aggregate import aggregate

    study = tiny_study()
    fill(study, {"misaligned": 10, "kl": 1, "interleave": 2})
    aggregate(study, Path("r.parquet"), Path("e.parquet"))
    found = verdicts(study, read_summary(Path("r.parquet")))
    assert found["kl-reduction-main"].ours == pytest.approx(90)
    assert found["kl-reduction-main"].verdict == DIFFERS
    assert found["kl-reduction-second"].verdict == NOT_MEASURED  # no second model
    assert found["interleaving-incoherence-security"].verdict == NOT_MEASURED  # no such task
    assert verdicts(paper_study(), paper_summary())["kl-reduction-main"].verdict == HOLDS

    fill(study, {"misaligned": 0, "kl": 0})
    aggregate(study, Path("r.parquet"), Path("e.parquet"))
    assert verdicts(study, read_summary(Path("r.parquet")))["kl-reduction-main"].verdict == NOT_MEASURED

    strict = study.model_copy(update={"report": study.report.model_copy(update={"emergent_pct": 60.0})})
    fill(study, {"misaligned": 5, "kl": 1})
    aggregate(study, Path("r.parquet"), Path("e.parquet"))
    assert verdicts(strict, read_summary(Path("r.parquet")))["kl-reduction-main"].verdict == NO_EMA
