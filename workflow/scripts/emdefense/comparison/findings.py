"""What a comparison says in sentences: whether the studies differ, where most, and what they cannot be compared on."""

from collections.abc import Iterator, Sequence

from emdefense.analysis.printed import signed
from emdefense.comparison.config_differences import Differing
from emdefense.comparison.pairs import Compared, Comparison
from emdefense.comparison.tables import titled
from emdefense.metrics import METRICS
from emdefense.report.page.findings import Finding
from emdefense.report.tables.differences import DECIMALS

SHOWN = 3  # differences that are named


def findings(comparison: Comparison, differing: Sequence[Differing], found: Sequence[Compared]) -> list[Finding]:
    """Return the sentences: on the configs first, then on each study against the first one."""
    keys = [one.what for one in differing]
    first = Finding(
        "plain",
        f"Their configs differ in {len(keys)} {'entry' if len(keys) == 1 else 'entries'}.",
        f"{', '.join(keys[:8])}{' and others, listed below' if len(keys) > 8 else ''}."
        if keys
        else "What differs in the results is chance, or what made them.",
    )
    return [first, *_against_first(comparison, found)]


def _against_first(comparison: Comparison, found: Sequence[Compared]) -> Iterator[Finding]:
    label = comparison.studies[0].label
    for n, other in enumerate(comparison.studies[1:], start=1):
        here = [one for one in found if one.study == n]
        if not here:
            yield Finding(
                "bad",
                f"{other.label} and {label} cannot be compared question by question.",
                "They have no arm and setting in common on questions in the same words. Rates stand side by side.",
            )
            continue
        tested = [one for one in here if one.difference.p_corrected is not None]
        sure = sorted(
            (one for one in tested if one.difference.is_significant), key=lambda one: -abs(one.difference.value)
        )
        if tested:
            named = "; ".join(_in_words(comparison, one) for one in sure[:SHOWN])
            yield Finding(
                "plain",
                f"{other.label} less {label}: {len(sure)} of {len(tested)} differences are more than chance.",
                f"The largest: {named}." if sure else "That is no proof that they are the same: see the intervals.",
            )
        if unlike := list(dict.fromkeys(said for one in here for said in one.unlike)):
            yield Finding(
                "bad",
                f"{other.label} was judged otherwise than {label}.",
                f"{'; '.join(unlike)}. A difference may be the judge's, so none is tested.",
            )


def _in_words(comparison: Comparison, one: Compared) -> str:
    found, row = one.difference, one.row
    task = comparison.studies[one.study].study.tasks[row.task].title
    place = f"{row.place.title}, " if len(comparison.places) > 1 else ""
    value = signed(found.value, decimals=DECIMALS)
    return f"{place}{task}, {titled(comparison, row)}, {METRICS[found.quantity].title}: {value} points"
