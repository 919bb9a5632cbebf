"""What is said of memory before weights are loaded."""

from pathlib import Path
from typing import Any

import jax
import pytest

from lodos.commands.compiled_plan import state_footprint
from lodos.commands.fit import check_state_fits
from lodos.commands.lora_model import load_lora_model, lora_structure, lora_trainer
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.plan.sizes import size
from lodos.target import Target, compiling_for
from lodos.train.config import TrainerConfig


def made(folder: Path) -> tuple[TrainArgs, HFCheckpointConverter]:
    trainer = TrainerConfig(num_train_steps=1, train_batch_size=1, mp="p=f32,c=bfloat16")
    config = TrainArgs(model_name_or_path=str(folder), data="rows.jsonl", trainer=trainer)
    return config, HFCheckpointConverter.from_hf(str(folder))


def test_it_is_what_the_loaded_state_holds(make_model: Any, caplog: pytest.LogCaptureFixture) -> None:
    config, converter = made(make_model()[0])
    key = jax.random.key(0)
    shapes = lora_structure(config, converter)
    trainer = lora_trainer(config, shapes)
    with config.trainer.device_mesh:
        state = trainer.initial_state(key, model=load_lora_model(config, converter, key=key))
    holds = state_footprint(state)
    assert holds.base == sum(leaf.nbytes for leaf in jax.tree.leaves(state.frozen) if isinstance(leaf, jax.Array))
    with caplog.at_level("INFO", logger="lodos"):
        check_state_fits(config, trainer, shapes, key)
    assert f"Each device holds {size(holds.arguments)} of " in caplog.text
    assert f"base {size(holds.base)}, adapter {size(holds.adapter)}, optimizer" in caplog.text


def test_only_what_cannot_fit_is_refused(make_model: Any) -> None:
    config, converter = made(make_model()[0])
    key = jax.random.key(0)
    shapes = lora_structure(config, converter)
    trainer = lora_trainer(config, shapes)
    with config.trainer.device_mesh:
        state = trainer.initial_state(key, model=load_lora_model(config, converter, key=key))
    needed = state_footprint(state).arguments
    with compiling_for(Target(jax.devices()[:1], memory_bytes=needed)):
        check_state_fits(config, trainer, shapes, key)
    with (
        compiling_for(Target(jax.devices()[:1], memory_bytes=needed - 1)),
        pytest.raises(UserError, match="does not fit"),
    ):
        check_state_fits(config, trainer, shapes, key)
