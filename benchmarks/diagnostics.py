"""What it costs to dissect a training step (`training.diagnostics_every`), against a step that is not.

    python benchmarks/diagnostics.py [--hidden 256 --layers 6 --vocabulary 2048] [--quick]

One process on the CPU, fp32, 4 rows of 128 tokens of which the second half is the answer, a randomly initialised Qwen2
whose head has as large a share of its weights as a 7B model's.
The last column is what dissecting every tenth step adds to a training.
"""

import argparse
from functools import partial

import torch
from measuring import markdown_table, median_core_seconds
from transformers import Qwen2Config, Qwen2ForCausalLM

from emdefense.config.training import Training
from emdefense.training.adapters import add_adapter
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.penalty import build_penalty
from emdefense.training.telemetry import Telemetry
from emdefense.training.token_batch import WindowCounts

ARMS = {"SFT": None, "KL": ("kl", {}), "LDIFS": ("ldifs", {"every": 1})}
ROWS, LENGTH = 4, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    arguments = parser.parse_args()
    given = (arguments.hidden, arguments.layers, arguments.vocabulary)
    hidden, layers, vocabulary = (32, 2, 128) if arguments.quick else given
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = add_adapter(Qwen2ForCausalLM(config), Training(precision="float32"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    ids = torch.randint(vocabulary, (ROWS, LENGTH))
    labels = torch.where(torch.arange(LENGTH) < LENGTH // 2, -100, ids)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    counts = WindowCounts(int((labels[:, 1:] != -100).sum()), ids.numel(), ROWS)

    def step(loss: DefenceLoss, telemetry: Telemetry) -> None:
        telemetry.begin(1, 9, counts.tokens)
        share = loss(batch, counts, telemetry.dissects)
        telemetry.add(share.ce.item(), share.penalty.item(), share.parts)
        share.total.backward()
        telemetry.entry(1.0)
        model.zero_grad()

    rows = []
    for arm, penalty in ARMS.items():
        loss = DefenceLoss(FeatureReader(model), build_penalty(*penalty) if penalty else None, 1.0)
        plain, dissected = (
            median_core_seconds(partial(step, loss, Telemetry(parameters, every)), 2 if arguments.quick else 9)
            for every in (0, 1)
        )
        ratio = dissected / plain
        rows.append([arm, f"{plain:.3f}", f"{dissected:.3f}", f"{ratio:.2f}", f"{10 * (ratio - 1):+.1f} %"])
    print(markdown_table(["arm", "step, core-s", "dissected, core-s", "ratio", "every tenth"], rows))


if __name__ == "__main__":
    main()
