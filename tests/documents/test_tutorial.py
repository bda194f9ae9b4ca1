"""The tutorial as it stands: its files saved, its commands typed, a figure of the reader's data at its end."""

import re
from pathlib import Path

import polars as pl
import pytest

from study_checkout import ROOT, Checkout

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
SAVED = re.compile(r"`(my-study/[a-z.]+)`(?:(?!```).)*?\n```(?:python|yaml)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RESULTS = Path("results/gardening")


def files() -> dict[str, str]:
    """The files that the reader is told to save."""
    return dict(SAVED.findall(TEXT))


def commands(*kinds: str) -> list[str]:
    """The commands about the reader's own study, in their order, without those that need a cluster."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()]
    mine = [line.partition("#")[0].strip() for line in lines if "my-study" in line and "needs a cluster" not in line]
    return [line for line in mine if line.startswith(kinds)]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str]:
    """A checkout in which a reader has done what the tutorial says, and what the run of the study said."""
    checkout = Checkout.into(tmp_path_factory.mktemp("tutorial"))
    checkout.use_environment()
    for command in commands("mkdir"):
        checkout.typed(command)
    for name, content in files().items():
        (checkout.folder / name).write_text(content, encoding="utf-8")
    said = [checkout.typed(command) for command in commands("python", "snakemake")]
    return checkout, said[-1]


def test_all_of_it_was_read() -> None:
    assert set(files()) == {"my-study/rows.py", "my-study/questions.yaml", "my-study/study.yaml"}
    kinds = [command.split()[0] for command in commands("mkdir", "python", "snakemake", "make")]
    assert kinds == ["mkdir", "python", "snakemake", "snakemake", "make"]


def test_the_reader_has_a_figure_of_their_data(followed: tuple[Checkout, str]) -> None:
    checkout, said = followed
    assert f"Page: {RESULTS}/report/index.html" in said
    results = checkout.folder / RESULTS
    for path in re.findall(r"results/gardening/[a-z_/]+\.(?:svg|pdf|tex|csv|html|json)", TEXT):
        if "tradeoff" not in path:  # which is there once there is a judge
            assert (checkout.folder / path).stat().st_size > 0, path
    assert "KL" in (results / "figures/likelihood_chart.svg").read_text(encoding="utf-8")


def test_it_shows_what_the_tutorial_says(followed: tuple[Checkout, str]) -> None:
    checkout, _ = followed
    rows = pl.read_parquet(checkout.folder / RESULTS / "likelihood.parquet").filter(side="misaligned")
    gained = {
        (arm, setting): gain for arm, setting, gain in rows.select("arm", "setting", "untrained_difference").rows()
    }
    assert gained["misaligned", "none"] > gained["kl", "1"] > 0


@pytest.mark.parametrize("command", commands("make"))
def test_what_it_names_in_passing_works(followed: tuple[Checkout, str], command: str) -> None:
    checkout, _ = followed
    assert "gardening" in checkout.typed(command)
    assert checkout.typed(command.replace("make status", "make plan"))
