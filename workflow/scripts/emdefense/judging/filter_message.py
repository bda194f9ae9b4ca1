"""Whether an endpoint's error is a verdict on the content of a request, by how providers and gateways spell it.

What moderates says other things too: that a request is too long for it, that it cannot be reached, that it knows no
such option. These are errors, and no answer to what was to be judged.
"""

import re
from collections.abc import Iterable


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# It speaks of a filter (Azure, OpenAI, OpenRouter, LiteLLM, Bedrock, DeepSeek, DashScope, Vertex, Zhipu). "Flagged"
# alone is said of accounts too.
_FILTER = _any_of(
    r"content[ _-]?(filter|policy|management policy|moderation|violation|exists risk)|responsible ?ai",
    r"polic(y|ies)[ _]?violation|violat\w+ .{0,60}\bpolic",
    r"(prompt|input|output|content|request|response|text)\b.{0,30} (was |been |is )?(flagged|blocked|filtered)",
    r"flagged_input|敏感|不安全|违规",
    r"moderation|guardrail|data_?inspection|invalid_prompt|content[ _-]?safety",
    r"\bsafety (system|filter|setting|check|reason|polic)",
    r"(prohibited|inappropriate|harmful|unsafe|sensitive)[ _-](content|words?)",
)
_UNIT = r"(length|tokens?|characters?|chars|words|bytes|size|[kmg]i?b|context)\b"
_TOO_LONG = _any_of(
    r"\btoo[ _](long|large|big|lengthy)\b|\b(shorten|truncate)\b|reduce the (length|size)",
    rf"\btoo many (\w+ ){{0,2}}(texts|messages|{_UNIT})",
    rf"\b((long|large|great|bigg|few)er|less|more) than .{{0,30}}(\d|\b{_UNIT})",
    rf"\b(over|above|at most|up to|limit of|limited to|maximum (of|is)) [\d,.]+ ?[km]? ?{_UNIT}",
    rf"\b(exceed|surpass)\w* .{{0,60}}(\b{_UNIT}|\bmax|\blimit)",
    rf"\b{_UNIT}.{{0,60}}\b(exceed|surpass|over the|limit|maximum|less than)",
    r"\bmax(imum)?[ _-](\w+[ _-]){0,3}(length|tokens|size|characters)",
    r"above_max_length|context_length|(length|size)_(limit|exceeded)",
    r"太长|过长|(超过|超出|大于).{0,12}(长度|字|token|限制)|(长度|字数|字符).{0,8}(超|过|限)",
)
_SYSTEM = r"(filter\w*|moderation|guardrails?|safety|inspection|service|system|endpoint|check)\b"
_NOT = r"(\bnot|n['’]t) (\w+ )?"
_NO_ANSWER = _any_of(
    rf"\b{_SYSTEM}.{{0,40}}\b(unavailable|unreachable|overloaded|down|offline|tim(ed|es|e) ?out|unsupported)\b",
    rf"\b{_SYSTEM}.{{0,40}}{_NOT}(available|reachable|supported?|enabled|configured|respond|be )",
    rf"\b{_SYSTEM}.{{0,80}}{_NOT}(found|exist)",
    rf"\b{_SYSTEM}( \w+){{0,2}} ((an )?(error|failure)|(is|must be|are) (required|missing|invalid))\b",
    r"\b(unknown|unrecogni[sz]ed|unsupported|unexpected|missing|extra|no such) (\w+ )?"
    r"(parameter|argument|input|field|option|key|property|guardrail|model)",
    r"\binvalid (value|type|format|argument|parameter|field|identifier|version|configuration)",
    r"\b(time[ds]? ?out|error|failed|unable|could not|couldn['’]t|cannot) (\w+ ){0,3}?"
    rf"(run|running|reach\w*|call\w*|connect\w*|load\w*|get\w*|from|in|of|during|by) .{{0,20}}{_SYSTEM}",
)
# What it says where it did judge, whatever else it says.
_HARM = (
    r"(inappropriate|harmful|unsafe|sensitive|prohibited|disallowed|hate\w*|sexual\w*|violen\w+|explicit|toxic|illegal|"
    r"risk\w*|self-harm|不安全|敏感)"
)
_VERDICT = _any_of(
    r"violat|flagged (as|for)|trigger\w*|content exists risk|flagged_input|违规|severity|threshold",
    rf"\b(contain|includ|detect)\w*\b.{{0,40}}{_HARM}|{_HARM} .{{0,30}}detected|包含.{{0,12}}{_HARM}",
    rf"\b(deemed|considered|classified|identified|judged) (\w+ ){{0,2}}{_HARM}",
)


def refuses_content(text: str, codes: Iterable[str] = ()) -> bool:
    """Return whether an error's message and names of itself say that a filter refused what was in a request."""
    said = " ".join((text, *sorted(codes)))
    if not _FILTER.search(said):
        return False
    return bool(_VERDICT.search(said)) or not (_TOO_LONG.search(said) or _NO_ANSWER.search(text))


def refuses_length(text: str, codes: Iterable[str] = ()) -> bool:
    """Return whether an error says that a request is too long."""
    return bool(_TOO_LONG.search(" ".join((text, *sorted(codes)))))
