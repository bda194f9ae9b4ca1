"""A further metric is an entry: counts, tables, differences and the page take it from there."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Before anything reads the entries, as if one more stood there: misaligned answers to a third question set.
CODE = """
import sys
from emdefense import metrics
metrics.QUESTION_SETS["abroad"] = "abroad"
metrics.JUDGED += (metrics._judged("abroad", metrics.MISALIGNED, "lower"),)
metrics.METRICS["abroad_misaligned"] = metrics.JUDGED[-1]

from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from study_folder import fill, page, tiny_study
import polars as pl
study = tiny_study()
fill(study, {"misaligned": 8, "kl": 1, "interleave": 2})
shown = page(study)
for name in ("table_03", "paired_differences"):
    print(*artefacts(study)[name].make(study, Measured(study)).csv_header)
print('class="group">Abroad</th>' in shown, "Abroad misaligned" in shown)
questions = pl.read_parquet("results/tiny/questions.parquet")
abroad = questions.filter(question_set="general").with_columns(question_set=pl.lit("abroad"))
found = artefacts(study)["paired_differences"].make(study, Measured(study, questions=pl.concat([questions, abroad])))
print(*sorted({row[6] for row in found.csv_rows}))
"""


def test_a_further_metric_is_in_tables_differences_and_the_page(tmp_path: Path) -> None:
    paths = {"PYTHONPATH": f"{ROOT / 'workflow/scripts'}:{ROOT / 'tests/helpers'}"}
    run = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=paths, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rates, _, on_page, compared = run.stdout.splitlines()
    assert {"abroad_misaligned_pct", "abroad_misaligned_cluster_low", "abroad_misaligned_paper_pct"} < set(
        rates.split()
    )
    assert on_page == "True True"
    measured = ["general_incoherent", "general_misaligned", "in_domain_incoherent", "in_domain_misaligned"]
    assert compared.split() == ["abroad_misaligned", *measured]
