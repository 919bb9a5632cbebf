"""A tiny loraized model and batches for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.decoder import LmHeadModel
from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.trainer import Trainer
from tiny_training import VOCAB, compute_loss, table_loss, tiny_config


@pytest.fixture
def base() -> LmHeadModel:
    return LmHeadModel.init(tiny_config(), key=jax.random.key(0))


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


@pytest.fixture
def table() -> dict[str, jax.Array]:
    """What `make_table_trainer` trains."""
    return {"table": jnp.linspace(0.0, 0.9, VOCAB)}


@pytest.fixture
def make_table_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """`make_table_trainer(steps=..., watch=None, **trainer_config)`: for tests of the loop, whatever is trained."""

    def make(*, steps: int = 5, watch: Any = None, **config: Any) -> Trainer:
        config = {"run_dir": str(tmp_path), "train_batch_size": 8, "id": "run", **config}
        optimizer = OptimizerConfig(learning_rate=1e-2).build(steps)
        return Trainer(TrainerConfig(num_train_steps=steps, **config), optimizer, table_loss, watch=watch)

    return make
