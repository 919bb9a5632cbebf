"""A tiny loraized model and batches for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.config import DecoderConfig
from lodos.models.decoder import LmHeadModel
from lodos.nn.rotary import RotaryConfig
from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.trainer import Trainer
from tiny_training import VOCAB, compute_loss


@pytest.fixture
def base() -> LmHeadModel:
    config = DecoderConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rotary=RotaryConfig(rotary_dim=8, max_position_embeddings=64),
    )
    return LmHeadModel.init(config, key=jax.random.key(0))


@pytest.fixture
def model(base: LmHeadModel) -> LmHeadModel:
    return loraize(base, LoraConfig(r=4, dropout=0.2), key=jax.random.key(1))


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """`make_trainer(model, steps=..., is_trainable=None, optimizer=None, **trainer_config)`; trains LoRA by default."""

    def make(
        model: LmHeadModel,
        *,
        steps: int = 5,
        is_trainable: Any = None,
        optimizer: OptimizerConfig | None = None,
        **config: Any,
    ) -> Trainer:
        optimizer = optimizer or OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
        config = {"run_dir": str(tmp_path), "train_batch_size": 8, "id": "run", **config}
        return Trainer(
            TrainerConfig(num_train_steps=steps, **config),
            optimizer.build(steps),
            compute_loss,
            is_trainable=lora_trainable_params_filter(model) if is_trainable is None else is_trainable,
        )

    return make
