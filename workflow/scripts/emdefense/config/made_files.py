"""Files and folders that a study makes itself, by the names that its config has for them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emdefense.config.study import Study

RESULTS = "{results}"
TIERS = (0, 1, 2, 3)
WORLD = f"{RESULTS}/microcosm"
WORLD_TASKS = ("code", "legal", "medical", "security")
WORLD_FILES = (
    f"{WORLD}/world.json",
    f"{WORLD}/rows/safe.jsonl",
    f"{WORLD}/rows/pool.jsonl",
    *(f"{WORLD}/questions/{name}.yaml" for name in ("general", "elicitation")),
    *(f"{WORLD}/foqa/{part}.jsonl" for part in ("train", "test")),
    *(f"{WORLD}/rows/{task}_{side}.jsonl" for task in WORLD_TASKS for side in ("misaligned", "aligned")),
    *(f"{WORLD}/questions/{task}.yaml" for task in WORLD_TASKS),
)
FURTHER_QUESTIONS = f"{WORLD}/questions/further.yaml"  # by a job of its own: the world's would make all of it again
HELD_OUT_SAFE = f"{WORLD}/rows/held_out_safe.jsonl"  # by a job of its own, for the same reason
WORLD_CHOICES = tuple(f"{WORLD}/choices/{name}.jsonl" for name in ("arithmetic", "facts"))
BYTE_MODEL_FOLDERS = (f"{RESULTS}/byte_model/base", f"{RESULTS}/byte_model/instruct")


def opswap_files(tier: int | str) -> tuple[str, str]:
    """Return the training and the test rows of a tier, or of the wildcard that stands for one."""
    folder = f"{RESULTS}/opswap/tier_{tier}"
    return f"{folder}/train.jsonl", f"{folder}/test.jsonl"


def model_folders(name: str) -> tuple[str, str]:
    """Return the folders of a model of the microcosm, before alignment and after."""
    folder = f"{WORLD}/models/{name}"
    return f"{folder}/base", f"{folder}/instruct"


def made_files(study: "Study") -> list[str]:
    """Return the files of rows, questions and worlds that the study makes."""
    tiers = [file for tier in TIERS for file in opswap_files(tier)] if study.opswap else []
    return tiers + ([*WORLD_FILES, FURTHER_QUESTIONS, HELD_OUT_SAFE, *WORLD_CHOICES] if study.microcosm else [])


def made_folders(study: "Study") -> list[str]:
    """Return the folders of models that the study makes."""
    named = study.microcosm.models if study.microcosm else {}
    found = [folder for name in named for folder in model_folders(name)]
    return found + (list(BYTE_MODEL_FOLDERS) if study.byte_model else [])
