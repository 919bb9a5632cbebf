"""What is said of memory before weights are loaded."""

from pathlib import Path
from typing import Any

import jax
import pytest

from lodos.commands.compiled_plan import compile_step, state_footprint, trace_step
from lodos.commands.fit import check_step_fits
from lodos.commands.loaders import blank_batch
from lodos.commands.lora_model import load_lora_model, lora_structure, lora_trainer
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.models.decoder import LmHeadModel
from lodos.plan.sizes import size
from lodos.target import Target, compiling_for
from lodos.train.config import TrainerConfig
from lodos.train.trainer import Trainer

KEY = jax.random.key(0)
LENGTH = 64


def made(folder: Path) -> tuple[TrainArgs, HFCheckpointConverter]:
    trainer = TrainerConfig(num_train_steps=1, train_batch_size=2, mp="p=f32,c=bfloat16")
    config = TrainArgs(
        model_name_or_path=str(folder),
        data="rows.jsonl",
        packing=True,
        max_tune_length=LENGTH,
        gradient_checkpointing="dots",
        trainer=trainer,
    )
    return config, HFCheckpointConverter.from_hf(str(folder))


def compiling(config: TrainArgs, converter: HFCheckpointConverter) -> tuple[Trainer, LmHeadModel]:
    shapes = lora_structure(config, converter)
    trainer = lora_trainer(config, shapes)
    trainer.compile_ahead(KEY, model=shapes, batch=blank_batch(config, LENGTH))
    return trainer, shapes


def said(config: TrainArgs, trainer: Trainer, shapes: LmHeadModel, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level("INFO", logger="lodos"):
        check_step_fits(config, trainer, shapes, KEY)
    return caplog.text


def test_it_is_what_the_plan_says_and_the_loaded_state_holds(
    make_model: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, converter = made(make_model()[0])
    trainer, shapes = compiling(config, converter)
    with config.trainer.device_mesh:
        holds = state_footprint(trainer.initial_state(KEY, model=load_lora_model(config, converter, key=KEY)))
    of_state = f"base {size(holds.base)}, adapter {size(holds.adapter)}, optimizer {size(holds.optimizer)}, "
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "compiled_ahead", None)
        assert f"{of_state}activations and temporaries about " in said(config, trainer, shapes, caplog)
    trainer.wait_until_compiled()
    temporaries = compile_step(trace_step(config, converter), read_text=False).training.temporaries
    assert f"{of_state}activations and temporaries {size(temporaries)} as compiled." in said(
        config, trainer, shapes, caplog
    )


def test_only_what_cannot_fit_is_refused(make_model: Any, caplog: pytest.LogCaptureFixture) -> None:
    config, converter = made(make_model()[0])
    trainer, shapes = compiling(config, converter)
    trainer.wait_until_compiled()
    step = trace_step(config, converter)
    least = step.least - step.holds.batch
    for memory, problem in (
        (least, None),
        (least - 1, "The step does not fit"),
        (step.holds.arguments - step.holds.batch - 1, "The model does not fit"),
    ):
        with compiling_for(Target(jax.devices()[:1], memory_bytes=memory)):
            if problem is None:
                said(config, trainer, shapes, caplog)
                continue
            with pytest.raises(UserError, match=problem):
                check_step_fits(config, trainer, shapes, KEY)


def test_where_there_is_no_step_to_do_what_is_held_is_said(make_model: Any, caplog: pytest.LogCaptureFixture) -> None:
    config, converter = made(make_model()[0])
    shapes = lora_structure(config, converter)
    text = said(config, lora_trainer(config, shapes), shapes, caplog)
    assert text.rstrip().endswith(".")
    assert "temporaries" not in text
