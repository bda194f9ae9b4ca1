"""Trainings of a tiny model, and what came of them."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, set_seed
from trl.trainer.sft_trainer import SFTTrainer

from emdefense.chat.chat import Chat
from emdefense.config.training import Training
from emdefense.training.adapters import add_adapter
from emdefense.training.data import TrainingRows
from emdefense.training.run import build_trainer
from emdefense.training.spec import PenaltySpec, TrainSpec
from emdefense.training.trainer import DefenceTrainer
from tiny_model import make_model, make_tokenizer

FAST = Training(
    batch_size=4, accumulation_steps=1, learning_rate=3e-3, warmup_steps=1, precision="float32", optimiser="adamw_torch"
)


KL, LDIFS = PenaltySpec(name="kl", coefficient=1.0), PenaltySpec(name="ldifs", coefficient=1.0, options={"every": 1})


def spec(penalty: PenaltySpec | None = None, **changes: Any) -> TrainSpec:
    return TrainSpec(version=1, seed=5, training=FAST.model_copy(update=changes), penalty=penalty)


def trained(
    folder: Path, of: TrainSpec, rows: list[dict[str, Any]], model: PreTrainedModel | None = None
) -> DefenceTrainer:
    data = TrainingRows(Chat(make_tokenizer()).rows([row["messages"] for row in rows]), len(rows), [])
    set_seed(of.seed)
    adapted = add_adapter(model or make_model(), of.training)
    trainer = build_trainer(of, adapted, Chat(make_tokenizer()), data, folder)
    trainer.train()
    return trainer


def weights(trainer: SFTTrainer) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}


def column(trainer: SFTTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]
