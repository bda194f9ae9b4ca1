"""How fast this machine's cores are on a model: ten steps, taken once and kept in the user's cache."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from emdefense.config.shape import ModelShape
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import read_json, write_json
from emdefense.provenance import machine as processor
from emdefense.resources.duration import EMA_TOKENS
from emdefense.resources.machine import ASSUMED, Machine, Speed
from emdefense.training.costs import training_flop

SCRIPT = Path(__file__).parents[2] / "measure_speed.py"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emdefense/speed"
ROOM = 2.5  # times a model's weights in float32: with activations, and the gradients of its adapter
STEP_SECONDS = 20.0  # of a row's training, as far as it is known before
# What a step's time depends on, beside the model's shape and the processor.
KEYS = ("precision", "lora_rank", "target_modules", "target_layers", "max_length")


def speed_here(machine: Machine, shape: ModelShape, training: Training, cache: Path = CACHE) -> Speed | None:
    """Return how fast a core is on a model of this shape, measured by ten steps at most once for each such machine.

    None where the model does not fit this machine's memory or its steps would take minutes, and where they could not be
    taken, of which stderr says why.
    """
    step_seconds = training_flop(shape, training, None, EMA_TOKENS, 1).all * EMA_TOKENS / (1e12 * ASSUMED.tflops)
    if ROOM * 4 * shape.parameters > machine.memory_mb * 1e6 or step_seconds > STEP_SECONDS:
        return None
    asked = {
        "shape": shape.model_dump(),
        "training": {key: value for key, value in training.model_dump(mode="json").items() if key in KEYS},
        "processor": processor(),
        "torch": version("torch"),
    }
    kept = cache / f"{sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]}.json"
    if (found := _kept(kept)) is None:
        print("measuring how fast this machine is: ten training steps, once", file=sys.stderr)
        found = _measured(shape, training)
        if found is not None:
            write_json(kept, {**asdict(found), "of": asked})
    return found


def _kept(path: Path) -> Speed | None:
    try:
        kept: dict[str, Any] = read_json(path)
        return Speed(float(kept["tflops"]), float(kept["gb_per_s"]))
    except (InputError, KeyError, TypeError, ValueError):  # not there, or of an older version
        return None


def _measured(shape: ModelShape, training: Training) -> Speed | None:
    options = ("--shape", shape.model_dump_json(), "--training", training.model_dump_json())
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        print(f"warning: this machine's speed could not be measured ({why}); it is assumed", file=sys.stderr)
        return None
    return Speed(**json.loads(done.stdout))
