"""What is left to the memory is decided by what fits, and by what is quickest of that."""

from pathlib import Path
from typing import Any

import jax
import pytest

from lodos.commands.compiled_plan import compile_step, trace_step
from lodos.commands.fitting import fitted, is_open
from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.formats.hf import HFCheckpointConverter
from lodos.target import Target, compiling_for
from lodos.train.config import TrainerConfig
from train_args import named

LENGTH = 64


def config_of(folder: Path, checkpointing: Any = "auto", rows: Any = "auto") -> TrainArgs:
    return TrainArgs(
        model_name_or_path=str(folder),
        data="rows.jsonl",
        packing=True,
        max_tune_length=LENGTH,
        gradient_checkpointing=checkpointing,
        trainer=TrainerConfig(num_train_steps=10, train_batch_size=8, per_device_parallelism=rows),
    )


def chosen(config: TrainArgs, memory: int) -> tuple[str, Any, str]:
    """Checkpointing, rows at once and why, on a device of so many bytes."""
    with compiling_for(Target(jax.devices()[:1], memory_bytes=memory)):
        found = fitted(config, HFCheckpointConverter.from_hf(config.model_name_or_path), length=LENGTH)
        assert not is_open(found.config)
        return found.config.gradient_checkpointing, found.config.trainer.per_device_parallelism, found.why


def test_it_is_the_first_that_fits(make_model: Any) -> None:
    folder = make_model(num_hidden_layers=3)[0]
    converter = HFCheckpointConverter.from_hf(str(folder))

    def needed(checkpointing: str, rows: int) -> int:
        return compile_step(trace_step(config_of(folder, checkpointing, rows), converter), read_text=False).needed

    whole, half = needed("dots", -1), needed("dots", 4)
    kind, rows, why = chosen(config_of(folder), 100 * whole)
    assert (kind, rows) == ("dots", -1)
    assert "compiled" not in why  # where there is much more than enough nothing is
    assert chosen(config_of(folder), whole)[:2] == ("dots", -1)
    # On one device nothing is gathered, and fewer rows at once cost nothing; a forward pass once more does.
    kind, rows, why = chosen(config_of(folder), max(half, whole - 1))
    assert (kind, rows) == ("dots", 4)
    assert "as compiled; quicker, but too large: gradient_checkpointing dots, 8 rows at once" in why
    # What is given stays.
    full = needed("full", -1)
    assert full < whole
    assert chosen(config_of(folder, rows=-1), full)[:2] == ("full", -1)
    assert chosen(config_of(folder, "none"), half)[0] == "none"
    kind, rows, why = chosen(config_of(folder), 1000)
    assert (kind, rows) == ("full", 1)
    assert "nothing fits" in why


def test_the_run_has_what_was_decided(args: TrainArgs, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lodos"):
        decided = train(named(args, "open", num_train_steps=2, per_device_parallelism="auto")).config
    assert (decided.gradient_checkpointing, decided.trainer.per_device_parallelism) == ("dots", -1)
    assert decided.trainer.id == "open"
    assert "Chosen by memory and time: gradient_checkpointing dots" in caplog.text
    written = (decided.trainer.run_folder / "config.yaml").read_text()
    assert "gradient_checkpointing: dots\n" in written
    assert "per_device_parallelism: -1\n" in written
