"""SafeLoRA on the matrices of Qwen2.5-7B: thin and for all τ in one pass, against the dense method.

    python benchmarks/safelora.py [--device cuda] [--threads 1] [--shapes 3584x3584 512x3584]
    python benchmarks/safelora.py --blocks 1 4

The first takes one matrix at a time. Dense is what public code does: C = VVᵀ/‖V‖, CBA and BA formed in fp32, and
a run of it for each τ; since every run does the same, one is measured and its time multiplied. Seconds are
of processor time on the CPU, so that other work on the machine does not count, and of wall time on CUDA. Peak memory is
of a process of its own and leaves out V, A and B, which both methods need.

The second projects an adapter of whole blocks from bf16 shards on the disk, on the CPU, and compares the peak
memory with that of the two models read whole, as the dense method needs them.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import MIB, in_child, markdown_table, peak_memory
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

from emdefense.arms.safelora import SafeLoRA
from emdefense.arms.safelora.projection import project_adapter, project_matrix

TAUS = (0.1, 0.2, 0.3, 0.4, 0.5)
RANK = 32
KINDS = {"q, o": (3584, 3584), "k, v": (512, 3584), "gate, up": (18944, 3584), "down": (3584, 18944)}
BLOCK = {
    **{f"self_attn.{name}_proj": KINDS["q, o"] for name in "qo"},
    **{f"self_attn.{name}_proj": KINDS["k, v"] for name in "kv"},
    **{f"mlp.{name}_proj": KINDS["gate, up"] for name in ("gate", "up")},
    "mlp.down_proj": KINDS["down"],
}


def thin(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """B and B' for every τ, of which one pass gives both."""
    projection = project_matrix(a, b, v, "squared_norm")
    chosen = [projection.b if projection.cosine < tau else b for tau in TAUS]
    return chosen[-1]


def dense(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """The same for one τ, with C, W and CW formed."""
    c = v @ v.t() / torch.linalg.norm(v)
    projected = c @ b
    cosine = torch.nn.functional.cosine_similarity((projected @ a).flatten(), (b @ a).flatten(), dim=0)
    return projected if round(float(cosine), 5) <= TAUS[0] else b


def now(device: str) -> float:
    """Processor seconds on the CPU; on CUDA wall seconds, when its kernels have ended."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(method: Callable[[Tensor, Tensor, Tensor], Tensor], shape: tuple[int, int], device: str, threads: int):
    """Seconds and peak extra bytes of one call, in a process that has done nothing else."""
    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(0)
    sizes = ((RANK, shape[1]), (shape[0], RANK), shape)
    a, b, v = (1e-3 * torch.randn(*size, generator=draw) for size in sizes)
    a, b, v = (tensor.to(device) for tensor in (a, b, v))
    warm = torch.ones(64, 64, device=device)
    method(warm, warm, warm)  # loads the libraries

    with peak_memory(device) as peak:
        start = now(device)
        method(a, b, v)
        seconds = now(device) - start
    return seconds, peak.bytes


def by_kind(kinds: dict[str, tuple[int, int]], device: str, threads: int) -> str:
    rows = []
    for kind, shape in kinds.items():
        ours, our_peak = in_child(measure, thin, shape, device, threads)
        once, their_peak = in_child(measure, dense, shape, device, threads)
        theirs = len(TAUS) * once
        seconds = [f"{ours:.3f}", f"{theirs:.2f}", f"{theirs / ours:.0f}"]
        memory = [f"{our_peak / MIB:.0f}", f"{their_peak / MIB:.0f}", f"{their_peak / max(our_peak, MIB):.0f}"]
        rows.append([kind, f"{shape[0]} × {shape[1]}", *seconds, *memory])
    times = ["thin, s", f"dense, s ({len(TAUS)} × one τ)", "ratio"]
    header = ["matrix", "shape", *times, "thin, MiB", "dense, MiB", "ratio"]
    return markdown_table(header, rows)


def save_blocks(folder: Path, blocks: int) -> None:
    """Write a base and an instruct model in bf16, a shard a block, and an adapter of all their matrices."""
    draw = torch.Generator().manual_seed(0)
    adapter, index = {}, {}
    for name in ("base", "instruct", "adapter"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    for block in range(blocks):
        weights = {}
        for matrix, (rows, columns) in BLOCK.items():
            name = f"model.layers.{block}.{matrix}"
            weights[f"{name}.weight"] = (0.02 * torch.randn(rows, columns, generator=draw)).bfloat16()
            adapter[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=draw)
            adapter[f"base_model.model.{name}.lora_B.weight"] = 1e-3 * torch.randn(rows, RANK, generator=draw)
        shard = f"model-{block + 1:05d}-of-{blocks:05d}.safetensors"
        index |= dict.fromkeys(weights, shard)
        save_file(weights, folder / "base" / shard)
        save_file({key: weight * 1.01 for key, weight in weights.items()}, folder / "instruct" / shard)
    for model in ("base", "instruct"):
        (folder / model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    save_file(adapter, folder / "adapter/adapter_model.safetensors")


def streamed(folder: Path, threads: int) -> tuple[float, int]:
    """Seconds and peak extra bytes of projecting the adapter; pages of mapped files count too."""
    torch.set_num_threads(threads)
    with peak_memory() as peak:
        start = now("cpu")
        project_adapter(SafeLoRA(), folder / "adapter", folder / "base", folder / "instruct", folder / "out")
        seconds = now("cpu") - start
    return seconds, peak.bytes


def read_whole(folder: Path) -> int:
    """Peak extra bytes of holding both models in bf16, and nothing else."""
    held = []
    with peak_memory() as peak:
        for path in sorted(folder.glob("*/model-*.safetensors")):
            held += [tensor.clone() for tensor in load_file(path).values()]  # a clone is in memory, not only mapped
    assert held
    return peak.bytes


def from_shards(counts: list[int], threads: int) -> str:
    rows = []
    for blocks in counts:
        with tempfile.TemporaryDirectory() as folder:
            in_child(save_blocks, Path(folder), blocks)
            seconds, ours = in_child(streamed, Path(folder), threads)
            whole = in_child(read_whole, Path(folder))
            size = sum(path.stat().st_size for path in Path(folder).glob("*/model-*.safetensors"))
        memory = [f"{ours / MIB:.0f}", f"{whole / MIB:.0f}", f"{whole / ours:.1f}"]
        rows.append([str(blocks), f"{size / MIB:.0f}", f"{seconds:.1f}", *memory])
    header = ["blocks", "both models, MiB", "s", "streamed, MiB", "read whole, MiB", "ratio"]
    return markdown_table(header, rows)


def shape_of(text: str) -> tuple[int, int]:
    rows, columns = text.split("x")
    return int(rows), int(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", type=shape_of, nargs="+", help="instead of a 7B model's, for example 896x4864")
    parser.add_argument("--blocks", type=int, nargs="+", help="project adapters of so many blocks from shards instead")
    parser.add_argument("--quick", action="store_true", help="tiny matrices, to see that it runs")
    arguments = parser.parse_args()
    shapes = [(64, 48), (48, 64)] if arguments.quick else arguments.shapes or ()
    kinds = {f"{rows} × {columns}": (rows, columns) for rows, columns in shapes} or KINDS
    if arguments.blocks:
        print(from_shards(arguments.blocks, arguments.threads))
    else:
        print(f"{len(TAUS)} τ, rank {RANK}, fp32, {arguments.device}, {arguments.threads} thread(s)\n")
        print(by_kind(kinds, arguments.device, arguments.threads))


if __name__ == "__main__":
    main()
