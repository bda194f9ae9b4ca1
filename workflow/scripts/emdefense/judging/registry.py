"""From a judge's config section to the judge."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from emdefense.config.judges import Judge as JudgeSettings
from emdefense.errors import InputError
from emdefense.judging.budget import Account
from emdefense.judging.protocol import Judge
from emdefense.section import first_problem


def parse_settings(spec: Mapping[str, Any]) -> JudgeSettings:
    """Validate a judge's spec, the config section plus a version; :class:`InputError` names the key."""
    section = {key: value for key, value in spec.items() if key != "version"}
    try:
        settings: JudgeSettings = TypeAdapter(JudgeSettings).validate_python(section)
    except ValidationError as error:
        raise InputError(f"--spec: {first_problem(error, 'judge', skip=1)}") from None
    return settings


def build_judge(
    settings: JudgeSettings, cache: Path, *, cache_only: bool = False, account: Account | None = None
) -> Judge:
    """Return the judge; one that costs money keeps its replies in ``cache``, or asks nothing if ``cache_only``."""
    if settings.kind == "oracle":
        from emdefense.microcosm.oracle import OracleJudge

        return OracleJudge(Path(settings.world))
    from emdefense.judging.openai_judge import EndpointJudge

    return EndpointJudge(settings, cache, cache_only=cache_only, account=account)
