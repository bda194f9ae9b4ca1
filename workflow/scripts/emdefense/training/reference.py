"""Where the features of the model before fine-tuning, θ0, come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from emdefense.training.feature_files import FeatureFiles
from emdefense.training.features import FeatureReader, Features


class Reference(Protocol):
    """Gives the reference's features of a batch."""

    def features(self, inputs: dict[str, Tensor], blocks: Sequence[int], modules: Sequence[str] = ()) -> Features:
        """Return final hidden states, the residual stream after ``blocks`` and what ``modules`` put out, detached."""
        ...


@dataclass(frozen=True)
class LiveReference:
    """Runs the model on the same batch with its adapter off: exact, at the cost of a forward pass."""

    reader: FeatureReader

    def features(self, inputs: dict[str, Tensor], blocks: Sequence[int], modules: Sequence[str] = ()) -> Features:
        """Return the features as the model computes them now."""
        return self.reader.reference(inputs, blocks, modules)


@dataclass(frozen=True)
class CachedReference:
    """Reads what the model computed once, in batches of other rows: exact to rounding, at the cost of reading."""

    files: FeatureFiles

    def features(self, inputs: dict[str, Tensor], blocks: Sequence[int], modules: Sequence[str] = ()) -> Features:
        """Return the stored features of the batch's rows; outputs of modules are never stored."""
        found = self.files.of(inputs["row"].tolist(), inputs["input_ids"].device)
        return Features(found.final, {block: found.residual[block] for block in blocks})
