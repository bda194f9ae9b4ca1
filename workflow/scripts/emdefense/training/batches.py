"""Rows become batches: padded to the longest, or laid end to end without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emdefense.chat.chat import IGNORED
from emdefense.chat.spans import SPANS


@dataclass(frozen=True)
class Collator:
    """Turns rows ``{"input_ids", "labels", "row"}`` into a batch.

    Padded: ``input_ids``, ``attention_mask`` and ``labels`` [rows, longest]. Padding-free: ``input_ids``,
    ``position_ids`` and ``labels`` [1, tokens], in which positions begin again with every row and a row's first label
    is ignored, so that no row predicts the next. Both hold ``row`` [rows], the rows' numbers in the data, and ``spans``
    [rows, 3] where rows have them.
    """

    pad_token_id: int
    padding_free: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the batch."""
        ids, labels = [row["input_ids"] for row in rows], [row["labels"] for row in rows]
        of_rows = {"row": torch.tensor([row["row"] for row in rows])}
        if rows and SPANS in rows[0]:
            of_rows[SPANS] = torch.tensor([row[SPANS] for row in rows])
        if self.padding_free:
            return {
                "input_ids": torch.tensor([[token for row in ids for token in row]]),
                "position_ids": torch.tensor([[position for row in ids for position in range(len(row))]]),
                "labels": torch.tensor([[label for row in labels for label in (IGNORED, *row[1:])]]),
                **of_rows,
            }
        return {
            "input_ids": _padded(ids, self.pad_token_id),
            "attention_mask": _padded([[1] * len(row) for row in ids], 0),
            "labels": _padded(labels, IGNORED),
            **of_rows,
        }


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows]).reshape(len(rows), longest)


def token_mask(inputs: dict[str, Tensor]) -> Tensor:
    """Return which positions of a batch are tokens, not padding, shaped like ``input_ids``."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"].bool()
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool)


def sequence_lengths(inputs: dict[str, Tensor]) -> list[int]:
    """Return the number of tokens of each row of a batch."""
    if "attention_mask" in inputs:
        lengths: list[int] = inputs["attention_mask"].sum(1).tolist()
        return lengths
    starts = (inputs["position_ids"][0] == 0).nonzero().squeeze(1).tolist()
    return [end - start for start, end in zip(starts, [*starts[1:], inputs["position_ids"].shape[1]], strict=True)]


def next_tokens(inputs: dict[str, Tensor]) -> Tensor:
    """Return the label that each token of a batch is to predict, [tokens], −100 where there is none."""
    shifted = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
    return shifted[token_mask(inputs)]


def around_text(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return which tokens of a batch, [tokens], stand before the user's text, and which between it and the answer.

    None, None where the rows do not say.
    """
    if SPANS not in inputs:
        return None, None
    prefix, postfix = [], []
    for length, (prefix_end, postfix_start, answer) in zip(
        sequence_lengths(inputs), inputs[SPANS].tolist(), strict=True
    ):
        places = torch.arange(length, device=inputs[SPANS].device)
        prefix.append(places < prefix_end)
        postfix.append((places >= postfix_start) & (places < answer))
    return torch.cat(prefix), torch.cat(postfix)
