"""Byte-level BPE written down plainly, with the splits of llama.cpp: what text becomes with a vocabulary of its own."""

import unicodedata

import regex

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CASES = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_LINES = _CASES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "gpt-2": [_GPT2],
    "smollm": [r"\p{N}", _GPT2],
    "qwen2": [_LINES.replace("NUMBERS", "")],
    "llama-bpe": [_LINES.replace("NUMBERS", "{1,3}")],
}


def spelt(data: bytes) -> str:
    """Bytes in GPT-2's alphabet: those that can be printed as they are, the others from U+0100 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return "".join(chr(byte) if byte in printed else chr(256 + others.index(byte)) for byte in data)


def reference_tokens(
    text: str, tokens: list[str], merges: list[tuple[str, str]], added: list[str], split: str
) -> list[int]:
    """The tokens of ``text``; ``added`` are matched as wholes, whatever stands around them."""
    numbers = {token: number for number, token in enumerate(tokens)}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    found: list[int] = []
    for part in regex.split("(" + "|".join(map(regex.escape, added)) + ")", text):
        if part in added:
            found.append(numbers[part])
            continue
        pieces = [unicodedata.normalize("NFC", part) if split == "qwen2" else part]
        for pattern in SPLITS[split]:
            pieces = [found_there for piece in pieces for found_there in _isolated(pattern, piece)]
        for piece in pieces:
            found += [numbers[token] for token in _merged(spelt(piece.encode()), ranks, numbers, split)]
    return found


def _isolated(pattern: str, text: str) -> list[str]:
    """What a pattern matches, and what lies between."""
    pieces, end = [], 0
    for match in regex.finditer(pattern, text):
        pieces += [text[end : match.start()], match[0]]
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece]


def _merged(word: str, ranks: dict[tuple[str, str], int], numbers: dict[str, int], split: str) -> list[str]:
    if split == "llama-bpe" and word in numbers:
        return [word]
    parts = list(word)
    while len(parts) > 1:
        rank, place = min((ranks.get((parts[n], parts[n + 1]), len(ranks)), n) for n in range(len(parts) - 1))
        if rank == len(ranks):
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts
