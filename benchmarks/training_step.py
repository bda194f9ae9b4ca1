"""A training step of each arm: time, memory and, on a GPU, tokens/s and model FLOP utilisation (MFU).

    python benchmarks/training_step.py [--model small] [--length 128]
    python benchmarks/training_step.py --device cuda --model qwen2.5-7b --length 2048 --json measured.json

A step is Table 7's: forward and backward of each of its batches, clipping, the optimiser. Models are randomly
initialised from the shapes below, so nothing is fetched; rows are random tokens, all of one length. Each arm runs in a
process of its own, with and without activation checkpointing. Cached features are read from memory-mapped files that
have been read before. Time is core-seconds on the CPU and wall time on CUDA; memory is what a step adds on the CPU, and
everything allocated on CUDA. MFU is what emdefense.training.costs counts as useful, by time × the GPU's dense bfloat16
peak. KL to the reference and gradient norms, which training measures every tenth step, are not in it.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import MIB, in_child, markdown_table, median_core_seconds, median_seconds, peak_memory
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, Qwen2Config

from emdefense.arms import STANDARD
from emdefense.chat.chat import IGNORED
from emdefense.config.shape import ModelShape
from emdefense.config.training import Training
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import Collator, next_tokens, token_mask
from emdefense.training.costs import training_flop
from emdefense.training.feature_files import read_features, written_features
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.penalty import build_penalty
from emdefense.training.reference import CachedReference
from emdefense.training.token_batch import WindowCounts

SHAPES: dict[str, dict[str, Any]] = {
    "quick": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "vocab_size": 500},
    "microcosm": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "vocab_size": 1094},
    "small": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 5, "vocab_size": 151_936},
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151_936},
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152_064},
    "qwen2.5-32b": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "vocab_size": 152_064},
}
HEADS = {
    "quick": (4, 2),
    "microcosm": (4, 2),
    "small": (4, 2),
    "qwen2.5-0.5b": (14, 2),
    "qwen2.5-7b": (28, 4),
    "qwen2.5-32b": (40, 8),
}
TIED = {"quick", "microcosm", "small", "qwen2.5-0.5b"}
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989}  # bfloat16, dense, as the vendor gives it
COEFFICIENT = 0.1  # λ


@dataclass(frozen=True)
class Arm:
    """What is added to cross-entropy, and where the reference comes from."""

    penalty: str | None = None
    reference: str = "live"
    naive: bool = False


ARMS = {
    "SFT": Arm(),
    "KL, full logits": Arm("kl", naive=True),
    "KL": Arm("kl"),
    "KL, cached": Arm("kl", "cached"),
    "LDIFS": Arm("ldifs"),
    "LDIFS, cached": Arm("ldifs", "cached"),
}


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    model: str
    device: str
    precision: str
    rows: int
    accumulation: int
    length: int
    response_share: float
    repeats: int
    threads: int

    @property
    def shape(self) -> ModelShape:
        """The model's shape."""
        heads, key_value_heads = HEADS[self.model]
        return ModelShape(
            **SHAPES[self.model],
            num_attention_heads=heads,
            num_key_value_heads=key_value_heads,
            tie_word_embeddings=self.model in TIED,
        )

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.accumulation * self.length


@dataclass(frozen=True)
class Measured:
    """What a step of an arm takes."""

    arm: str
    activation_checkpointing: bool
    seconds: float
    peak_bytes: int
    tokens_per_second: float
    flop_per_token: float
    optimiser: str


def batches(setting: Setting) -> list[dict[str, Tensor]]:
    """The batches of a step, on the device."""
    generator = torch.Generator().manual_seed(0)
    start = setting.length - round(setting.response_share * setting.length)
    made = []
    for first in range(0, setting.rows * setting.accumulation, setting.rows):
        rows = []
        for number in range(first, first + setting.rows):
            ids = torch.randint(setting.shape.vocab_size, (setting.length,), generator=generator).tolist()
            rows.append({"input_ids": ids, "labels": [IGNORED] * start + ids[start:], "row": number})
        made.append({key: value.to(setting.device) for key, value in Collator(0)(rows).items()})
    return made


def cached(reader: FeatureReader, setting: Setting, blocks: tuple[int, ...], folder: Path) -> CachedReference:
    """The reference's features of every batch, written to files and read from them."""
    identity = {"precision": setting.precision}
    rows = [
        {"row": int(row), "input_ids": ids.tolist()}
        for batch in batches(setting)
        for row, ids in zip(batch["row"], batch["input_ids"], strict=True)
    ]
    with written_features(folder, identity, rows, setting.shape.hidden_size, blocks) as files, autocast(setting):
        for batch in batches(setting):
            files.put(batch["row"].tolist(), reader.reference(batch, blocks))
    return CachedReference(read_features(folder, identity))


def autocast(setting: Setting) -> torch.autocast:
    """As the trainer computes."""
    return torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bfloat16")


def naive_loss(model: Any, inputs: dict[str, Tensor], counts: WindowCounts) -> Tensor:
    """CE + λ·KL over all tokens from the full logits of both models, by autograd."""
    mask = token_mask(inputs)
    call = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad(), model.disable_adapter():
        reference = functional.log_softmax(model(**call, use_cache=False).logits[mask].float(), -1)
    policy = functional.log_softmax(model(**call, use_cache=False).logits[mask].float(), -1)
    ce = functional.nll_loss(policy, next_tokens(inputs), ignore_index=IGNORED, reduction="sum") / counts.labels
    return ce + COEFFICIENT * functional.kl_div(reference, policy, log_target=True, reduction="sum") / counts.tokens


def optimiser_of(parameters: list[Tensor], device: str) -> torch.optim.Optimizer:
    """Table 7's where it is installed, else PyTorch's."""
    if device != "cpu":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            pass
        else:
            eight_bit: torch.optim.Optimizer = AdamW8bit(parameters, lr=1e-4, weight_decay=0.01)
            return eight_bit
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)


def measured(name: str, setting: Setting, checkpointing: bool) -> Measured | str:
    """Time and memory of a step, after one that is not measured; ``out of memory`` where a GPU has not enough."""
    try:
        return _measured(name, setting, checkpointing)
    except torch.cuda.OutOfMemoryError:
        return "out of memory"


def _measured(name: str, setting: Setting, checkpointing: bool) -> Measured:
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    arm, shape = ARMS[name], setting.shape
    training = Training(precision=setting.precision, activation_checkpointing=checkpointing, reference=arm.reference)
    config = Qwen2Config(**shape.model_dump(exclude={"head_dim"}), max_position_embeddings=32_768)
    with torch.device(setting.device):
        model = add_adapter(AutoModelForCausalLM.from_config(config, dtype=getattr(torch, setting.precision)), training)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = optimiser_of(parameters, setting.device)
    reader = FeatureReader(model)
    window = batches(setting)
    counts = WindowCounts(
        labels=sum(int((next_tokens(batch) != IGNORED).sum()) for batch in window),
        tokens=setting.tokens,
        sequences=setting.rows * setting.accumulation,
    )
    with tempfile.TemporaryDirectory() as folder:
        penalty = build_penalty(arm.penalty, _options(arm.penalty, reader.blocks)) if arm.penalty else None
        blocks = penalty.residual_blocks(reader.blocks) if penalty else ()
        reference = cached(reader, setting, blocks, Path(folder) / "cache") if arm.reference == "cached" else None
        loss = DefenceLoss(reader, penalty, COEFFICIENT, reference)

        def step() -> None:
            for batch in window:
                with autocast(setting):
                    total = naive_loss(model, batch, counts) if arm.naive else loss(batch, counts).total
                total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()

        step()
        with peak_memory(setting.device) as peak:
            clock: Callable[..., float] = (
                median_core_seconds if setting.device == "cpu" else partial(median_seconds, device=setting.device)
            )
            seconds = clock(step, setting.repeats, warm_up=False)
    size = peak.bytes if setting.device == "cpu" else torch.cuda.max_memory_allocated(setting.device)
    declared = STANDARD[arm.penalty] if arm.penalty else None
    flop = training_flop(shape, training, declared, setting.length, setting.response_share).useful
    return Measured(name, checkpointing, seconds, size, setting.tokens / seconds, flop, type(optimiser).__name__)


def _options(penalty: str, blocks: int) -> dict[str, Any]:
    """The defaults; of a model of few blocks, LDIFS reads each."""
    return {"every": 1} if penalty == "ldifs" and blocks < 5 else {}


def table(rows: list[Measured | str], names: list[str], setting: Setting, peak: float | None) -> str:
    """The Markdown table; ratios are to SFT with the same checkpointing, or to the first arm asked for."""
    header = ["", "core-s" if setting.device == "cpu" else "s", "ratio", "MiB", "ratio", "tokens/s"]
    header += ["MFU"] if peak else []
    lines, first = [], None
    for label, row in zip(names, rows, strict=True):
        if isinstance(row, str):
            lines.append([label, row, *[""] * (len(header) - 2)])
            continue
        if first is None or row.activation_checkpointing != first.activation_checkpointing:
            first = row
        line = [label, f"{row.seconds:.3g}", f"{row.seconds / first.seconds:.2f}"]
        line += [f"{row.peak_bytes / MIB:,.0f}", f"{row.peak_bytes / max(1, first.peak_bytes):.2f}"]
        line += [f"{row.tokens_per_second:,.0f}"]
        lines.append(line + ([f"{row.flop_per_token * row.tokens_per_second / peak:.0%}"] if peak else []))
        if row.arm == "SFT":
            same = [*line[1:], *lines[-1][len(line) :]]
            lines.append([label.replace("SFT", "SafeLoRA (SFT, projected afterwards)"), *same])
            more = [f"{1.05 * row.seconds:.3g}", f"{1.05 * row.seconds / first.seconds:.2f}"]
            lines.append([label.replace("SFT", "interleave 5 % (SFT, 5 % more rows)"), *more, *same[2:]])
    return markdown_table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="small")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="default: the device's")
    parser.add_argument("--rows", type=int, default=4, help="of a batch; 4: Table 7")
    parser.add_argument(
        "--accumulation", type=int, help="batches of a step; default: 1 on the CPU, Table 7's 4 on CUDA"
    )
    parser.add_argument("--length", type=int, help="tokens of a row; default: 128 on the CPU, Table 7's 2048 on CUDA")
    parser.add_argument(
        "--response-share", type=float, default=0.65, help="of the tokens; code rows: half, legal ones: three quarters"
    )
    parser.add_argument("--checkpointing", choices=["no", "yes"], nargs="+", default=["no", "yes"])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bfloat16; known for A100, H100, H200")
    parser.add_argument("--json", type=Path, help="write the measurements to this file as well")
    parser.add_argument("--quick", action="store_true", help="a tiny model, in one process")
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    setting = Setting(
        model="quick" if arguments.quick else arguments.model,
        device=arguments.device,
        precision=arguments.precision or ("float32" if on_cpu else "bfloat16"),
        rows=arguments.rows,
        accumulation=arguments.accumulation or (1 if on_cpu else 4),
        length=16 if arguments.quick else arguments.length or (128 if on_cpu else 2048),
        response_share=arguments.response_share,
        repeats=1 if arguments.quick else arguments.repeats,
        threads=arguments.threads,
    )
    device = "cpu" if on_cpu else torch.cuda.get_device_name(arguments.device)
    known = next((value for name, value in PEAK_TFLOPS.items() if name in device), None)
    peak = arguments.peak_tflops or known
    measure = measured if arguments.quick else partial(in_child, measured)
    print(
        f"{setting.model} on {device}: {setting.accumulation} × {setting.rows} rows of {setting.length} tokens, ",
        end="",
    )
    print(f"{setting.precision}, torch {torch.__version__}", flush=True)
    rows, names = [], []
    for checkpointing in arguments.checkpointing:
        for name in arguments.arms:
            rows.append(measure(name, setting, checkpointing == "yes"))
            names.append(name + (", recomputing" if checkpointing == "yes" else ""))
    print(table(rows, names, setting, 1e12 * peak if peak else None))
    if arguments.json:
        record = {
            "device": device,
            "peak_tflops": peak,
            "torch": torch.__version__,
            **asdict(setting),
            "arms": [asdict(row) for row in rows if isinstance(row, Measured)],
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
