"""What is checked when a study starts: that the jobs to be run will find their keys and packages."""

import os
from collections.abc import Collection
from pathlib import Path

from emdefense.config.judges import OpenAIJudge
from emdefense.config.sources import SourceSection
from emdefense.config.study import Study
from emdefense.errors import InputError
from emdefense.generation.engines import check_installed
from emdefense.judging.prices import price_of
from emdefense.training.packages import check_packages

SAMPLING_RULES = {"generate", "generate_untrained", "answer"}
GATED = {"emergent_plus", "wildguardmix", "foqa"}  # kinds of sources


def check_start(
    study: Study,
    rules: Collection[str],
    fetched: Collection[str],
    judges: Collection[str],
    *,
    own_environments: bool,
    trains_here: bool = False,
    vllm: Path | None = None,
) -> None:
    """Raise :class:`InputError` if a job of one of these rules, a fetch of one of these sources, or one of these judges
    is bound to fail.

    ``own_environments``: each rule has one, so that this one need not hold their packages. ``trains_here``: trainings
    run in this one, on this machine. ``vllm`` is the folder of the environment in which vLLM samples.
    """
    for name, judge in study.judges.items():
        if name in judges and judge.kind == "openai" and not study.judge_cache_only:
            key = "judge" if judge is study.judge else "second_judges"
            _check_judge_key(judge, key)
            if study.max_usd is not None and price_of(judge) is None:
                raise InputError(f"key '{key}.prices': max_usd is set, and what '{judge.model}' costs is not known")
    if SAMPLING_RULES & set(rules) and not own_environments:
        check_installed(study.generation.engine, vllm if study.generation.engine == "vllm" else None)
    if "train" in rules and trains_here:
        check_packages(study.training)
    _check_hub_token(study, fetched)


def _check_judge_key(judge: OpenAIJudge, key: str) -> None:
    if not os.environ.get(judge.api_key_variable, "").strip():
        raise InputError(
            f"key '{key}.api_key_variable': the environment variable {judge.api_key_variable} is not set; export the "
            f"key of judge '{judge.name}' in it (any text, if the endpoint asks for none), or leave judging for later "
            "with `--omit-from judge`"
        )


def _check_hub_token(study: Study, fetched: Collection[str]) -> None:
    gated = [name for name in fetched if study.sources[name].kind in GATED and study.sources[name].path is None]
    if not gated or os.environ.get("HF_ENDPOINT"):  # a mirror has its own rules
        return
    from huggingface_hub import get_token  # here, so that a study without gated sources does without the import

    missing = sorted(name for name in gated if not _is_cached(study.sources[name]))
    if missing and get_token() is None:
        repositories = sorted({str(study.sources[name].identity()["repository"]) for name in missing})
        pages = " and ".join(f"https://huggingface.co/datasets/{repository}" for repository in repositories)
        raise InputError(
            f"key 'sources': {', '.join(missing)}: access is gated; accept the conditions on {pages}, and put an "
            "access token of that account into the environment variable HF_TOKEN (or set 'path' to a local copy)"
        )


def _is_cached(source: SourceSection) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision = source.repository, source.revision  # type: ignore[attr-defined]
    try:
        snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True
