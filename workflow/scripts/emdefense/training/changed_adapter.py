"""The adapter of plain fine-tuning as an arm changes it after training."""

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from emdefense import provenance
from emdefense.arms.arguments import FinishedAdapter
from emdefense.arms.base import Arm, Options
from emdefense.arms.hooks import call, wrong_result
from emdefense.errors import InputError
from emdefense.files import folder_written_whole, write_json
from emdefense.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from emdefense.training.adapter_files import read_tensors

METADATA = {"format": "pt"}


def change_adapter(
    arm: Arm[Any], options: Options, setting: float | None, adapter: Path, preparation: Path | None, cell: Path
) -> None:
    """Write ``cell``/adapter and its provenance; the same tensors give the same bytes."""
    if arm.setting is not None and (setting is None or (problem := arm.setting.problem(setting))):
        raise InputError("this arm has a setting; give one" if setting is None else str(problem))
    started = datetime.now(UTC)
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise InputError(f"{adapter / ADAPTER_CONFIG}: there is no such file; name a folder that PEFT saved")
    finished = FinishedAdapter(read_tensors(adapter / ADAPTER_WEIGHTS), adapter, preparation)
    tensors = changed(arm, options, setting, finished)
    with folder_written_whole(cell / "adapter") as temporary:
        # Cloned, for what shares memory is not saved.
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, temporary / ADAPTER_WEIGHTS, METADATA)
        (temporary / ADAPTER_WEIGHTS).chmod(0o644)
        shutil.copyfile(adapter / ADAPTER_CONFIG, temporary / ADAPTER_CONFIG)
    named_setting = {} if arm.setting is None else {arm.setting.name: setting}
    own = {} if arm.file is None else {"arm": {"file": str(arm.file), "sha256": arm.digest}}
    record = {**named_setting, **finished.record, **own, "adapter": str(adapter)}
    made = provenance.made_by(started, ("torch", "safetensors"), __name__, type(arm).__module__)
    write_json(cell / "provenance.json", {**record, **made})


def changed(arm: Arm[Any], options: Options, setting: float | None, finished: FinishedAdapter) -> dict[str, Tensor]:
    """Return the tensors that the arm's hook returns; :class:`InputError` if they are not those of an adapter."""
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in finished.tensors.items()}
    tensors = call(arm, "adapter", finished, setting, options)

    def wrong(problem: str) -> InputError:
        return wrong_result(arm, "adapter", problem)

    if not isinstance(tensors, Mapping):
        raise wrong(f"it returned {type(tensors).__name__}, and a dict of tensors is needed")
    if tensors.keys() != before.keys():
        differing = sorted(map(str, tensors.keys() ^ before.keys()))[0]
        raise wrong(f"the tensors that it returned are not the adapter's: '{differing}' is in one of them only")
    for name, tensor in tensors.items():
        shape, dtype = before[name]
        if not isinstance(tensor, Tensor) or (tensor.shape, tensor.dtype) != (shape, dtype):
            raise wrong(f"'{name}' is no tensor of shape {list(shape)} and type {dtype}")
        if not torch.isfinite(tensor).all():
            raise wrong(f"'{name}' is not finite")
    try:
        json.dumps(finished.record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise wrong(f"record holds what JSON does not: {error}") from None
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
