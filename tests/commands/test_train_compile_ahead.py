"""`lodos train` compiles its step while data is prepared and weights are loaded."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import pytest

from lodos.commands import train as train_command
from lodos.commands.loaders import make_loaders
from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.formats.hf import HFCheckpointConverter
from lodos.train.config import CheckpointerConfig
from lodos.train.trainer import Trainer
from train_args import named


@pytest.mark.parametrize("packed", [True, False])
def test_the_step_is_compiled_while_the_rest_is_made_ready(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    compiled = threading.Event()
    count = 0

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        nonlocal count
        if event.endswith("backend_compile_duration") and kwargs.get("fun_name") == "jit(_train_step)":
            count += 1
            compiled.set()

    def after_compilation(fn: Any) -> Any:
        def wait(*args: Any, **kwargs: Any) -> Any:
            assert compiled.wait(timeout=120)
            return fn(*args, **kwargs)

        return wait

    # Rows are packed to a known length: data can wait. Otherwise their lengths decide the shape, and only weights can.
    if packed:
        args = dataclasses.replace(args, packing=True, max_tune_length=64)
        monkeypatch.setattr(train_command, "make_loaders", after_compilation(train_command.make_loaders))
    else:
        monkeypatch.setattr(train_command, "load_lora_model", after_compilation(train_command.load_lora_model))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        train(named(args, "ahead", num_train_steps=2))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert count == 1


def test_who_waits_for_the_step_is_told(args: TrainArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    is_shown, open_log, wait = False, train_command.RunLog.__enter__, Trainer.wait_until_compiled
    waited = []

    def opened(log: Any) -> Any:
        nonlocal is_shown
        is_shown = True
        return open_log(log)

    def noted(trainer: Trainer) -> None:
        waited.append(is_shown)
        wait(trainer)

    monkeypatch.setattr(train_command.RunLog, "__enter__", opened)
    monkeypatch.setattr(Trainer, "wait_until_compiled", noted)
    train(named(args, "told", num_train_steps=1))
    assert waited
    assert all(waited)


def test_the_shape_of_the_first_batch_is_what_is_compiled_first(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [{"instruction": f"Say {i}.", "output": "abc" * (1 + 8 * (i % 4 == 0))} for i in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    lengths = []
    compile_ahead = Trainer.compile_ahead

    def noted(trainer: Trainer, *rest: Any, batch: Any, **kwargs: Any) -> None:
        lengths.append(batch.tokens.shape[1])
        compile_ahead(trainer, *rest, batch=batch, **kwargs)

    monkeypatch.setattr(Trainer, "compile_ahead", noted)
    checkpointer = CheckpointerConfig(save_interval=1)
    args = dataclasses.replace(named(args, "short", train_batch_size=1, checkpointer=checkpointer), validation=None)
    converter = HFCheckpointConverter.from_hf(args.model_name_or_path)
    training = make_loaders(args, converter).training
    expected = [training[k].tokens.shape[1] for k in range(6)]
    assert len(set(expected[:2])) == 2
    train(named(args, "short", num_train_steps=1))
    train(named(args, "short", num_train_steps=2))  # goes on from the first step
    assert lengths == expected[:2]
    train(named(args, "short", num_train_steps=2))  # has nothing to do
    assert lengths == expected[:2]


def test_refused_data_does_not_wait_for_the_compiler(args: TrainArgs, make_model: Any, tmp_path: Path) -> None:
    # Twelve layers, compiled one by one, take far longer than to see that a row is wrong.
    folder, _ = make_model(num_hidden_layers=12)
    (tmp_path / "rows.json").write_text('[{"instruction": "Say a.", "output": "a"}, {"instruction": 5}]')
    flags = ["--packing", "true", "--max_tune_length", "64", "--scan_layers", "false", "--trainer.num_train_steps", "2"]
    places = ["--model_name_or_path", str(folder), "--data", args.data, "--trainer.run_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "lodos", "train", *places, *flags],
        env={**os.environ, "JAX_LOG_COMPILES": "1", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "row 2" in done.stderr
    assert "Finished XLA compilation of jit(_train_step)" not in done.stderr
