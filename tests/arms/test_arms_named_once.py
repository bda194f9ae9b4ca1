"""An arm is named where it is declared, and by no other module, script or rule; a table or a figure once."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emdefense.arms import DEFENCES, STANDARD
from emdefense.report.catalogue import artefacts
from study_folder import tiny_study

WORKFLOW = Path(__file__).parents[2] / "workflow"
PACKAGE = WORKFLOW / "scripts/emdefense"
# Where arms are declared, and what is the paper's.
DECLARED = (PACKAGE / "arms", PACKAGE / "analysis/paper.py")
DEFENCE_WORDS = {word for arm in DEFENCES for word in (arm.name, arm.title.lower())}
SIDES = {"aligned", "misaligned"}
# Words that name something else there, and what.
ALLOWED: dict[str, tuple[set[str], str]] = {
    "config/checks.py": ({"aligned"}, "the side of a task's rows"),
    "config/made_files.py": (SIDES, "the sides of a task's rows"),
    "config/path_checks.py": (SIDES, "the sides of a task's rows"),
    "config/study.py": (SIDES, "the sides of a task's rows"),
    "config/supplied.py": (SIDES, "the sides of a task's rows"),
    "data/splits.py": (SIDES, "the sides of a task's rows"),
    "microcosm/rows.py": (SIDES, "the sides of a task's rows"),
    "sources/emergent_plus.py": (SIDES, "the sides of a task's rows"),
    "data/questions.py": ({"aligned"}, "the rubric"),
    "judging/requests.py": ({"aligned"}, "the rubric"),
    "metrics.py": ({"misaligned"}, "the outcome"),
    "analysis/multiple_choice.py": ({"untrained"}, "what columns are called that compare with the model as it is"),
    "report/tables/multiple_choice.py": ({"untrained"}, "what columns are called that compare with the model as it is"),
    "analysis/likelihood.py": ({"untrained"}, "what columns are called that compare with the model as it is"),
    "inputs.py": (SIDES, "the sides of a task's rows"),
    "likelihood/read.py": (SIDES, "the sides of a task's rows"),
    "likelihood/rows.py": ({"misaligned"}, "the side of a task's rows"),
    "report/page/likelihood.py": (SIDES, "the sides of a task's rows"),
    "report/tables/likelihood.py": (SIDES, "the sides of a task's rows"),
    "analysis/unanswered.py": ({"misaligned"}, "the outcome"),
    "report/tables/unanswered.py": ({"misaligned"}, "the outcome"),
    "config/training.py": ({"kl"}, "the divergence that is measured of every training"),
    "training/telemetry.py": ({"kl"}, "the divergence that is measured of every training"),
    "report/figures/training_curves.py": ({"kl"}, "the divergence that is measured of every training"),
    "training/head_check.py": ({"kl"}, "the divergence, of which it says how exact it is"),
}


def words(text: str) -> set[str]:
    """The words of a text or an identifier, in lower case, and the parts of those in capitals and small letters."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    return set(re.split(r"[\W_]+", f"{text} {parts}".lower()))


def strings(tree: ast.Module) -> Iterator[str]:
    """What the literals say, docstrings left out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = (node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body)
    docstrings = {id(node.value) for node in first if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def identifiers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        for attribute in ("id", "attr", "name", "arg", "asname"):
            if isinstance(found := getattr(node, attribute, None), str):
                yield found


def arms_named_in(source: str) -> set[str]:
    """The arms that a module names: a literal that is an arm's name, or a defence's among the words of anything."""
    tree = ast.parse(source)
    literals = list(strings(tree))
    of_words = {word for text in (*literals, *identifiers(tree)) for word in words(text) & DEFENCE_WORDS}
    return of_words | (set(literals) & set(STANDARD))


def modules() -> list[Path]:
    found = [*WORKFLOW.rglob("*.py")]
    return sorted(path for path in found if not any(path.is_relative_to(there) for there in DECLARED))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(WORKFLOW / "scripts")))
def test_no_module_but_its_own_names_an_arm(path: Path) -> None:
    allowed, _ = ALLOWED.get(path.relative_to(PACKAGE).as_posix() if PACKAGE in path.parents else "", (set(), ""))
    assert arms_named_in(path.read_text(encoding="utf-8")) - allowed == set()


def test_no_rule_and_no_template_names_a_defence() -> None:
    texts = [*WORKFLOW.glob("rules/*.smk"), WORKFLOW.parent / "Snakefile", *PACKAGE.glob("report/templates/*")]
    for path in (*texts, *WORKFLOW.glob("report/*.rst")):
        assert words(path.read_text(encoding="utf-8")) & DEFENCE_WORDS == set(), path.name


def test_what_is_allowed_is_needed() -> None:
    for name, (allowed, _) in ALLOWED.items():
        assert arms_named_in((PACKAGE / name).read_text(encoding="utf-8")) & allowed, f"{name} needs no leave any more"


def test_an_arm_that_is_named_is_found() -> None:
    assert arms_named_in('if arm == "untrained":\n    pass') == {"untrained"}
    assert arms_named_in("def safelora_table(): ...") == {"safelora"}
    assert arms_named_in("class KLLoss: ...\nx.interleave_pct") == {"kl", "interleave"}
    assert arms_named_in('"""Not KL\'s."""\nprint("what SafeLoRA does")') == {"safelora"}


def test_no_table_or_figure_is_named_twice() -> None:
    models = {"small": {"title": "Small", "instruct": "-", "base": "-"}}
    grid = [{"models": ["small"], "tasks": ["code"], "arms": {"misaligned": None, "safelora": [0.5]}}]
    study = tiny_study(models=models, grid=grid, second_judges=[{"kind": "openai", "name": "again", "model": "m"}])
    names = set(artefacts(study))
    assert len(names) > 20
    sources = [*WORKFLOW.rglob("*.py"), *WORKFLOW.rglob("*.smk"), WORKFLOW.parent / "Snakefile"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    twice = {name for name in names if len(re.findall(rf'"(?:[^"\n]*/)?{re.escape(name)}[".]', text)) > 1}
    assert twice == set()
