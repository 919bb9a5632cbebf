"""Runs of `lodos train` that tests change as they need."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from host_runs import Undisturbed, command, run_of_everything, written
from jobs import Job
from lodos.config import TrainArgs
from lodos.lora.config import LoraConfig
from lodos.train.config import CheckpointerConfig, TrainerConfig
from lodos.train.optim import OptimizerConfig


@pytest.fixture
def args(make_model: Any, tmp_path: Path) -> TrainArgs:
    folder, _ = make_model()
    rows = [
        {"instruction": f"Say {word}.", "output": word * (2 + i % 5)} for i, word in enumerate("abcdefghijklmnopqrst")
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return TrainArgs(
        model_name_or_path=str(folder),
        data=str(tmp_path / "rows.json"),
        validation=4,
        lora=LoraConfig(r=4, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        trainer=TrainerConfig(
            id="straight",
            run_dir=str(tmp_path / "runs"),
            num_train_steps=6,
            train_batch_size=4,
            steps_per_eval=2,
            checkpointer=CheckpointerConfig(save_interval=2),
        ),
    )


@pytest.fixture(scope="session")
def base_args(make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> TrainArgs:
    """A run with everything, on one host."""
    model, _ = make_model(num_key_value_heads=4)
    return run_of_everything(model, tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="session")
def undisturbed(base_args: TrainArgs, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    config = written(base_args, "undisturbed", per_device_parallelism=1)
    with Job(tmp_path_factory.mktemp("undisturbed"), command(config), hosts=2, devices=4) as job:
        job[0].wait_until_it_says("All 2 hosts are there")
        began = time.monotonic()
        assert job.statuses() == [0, 0], [host.said for host in job.hosts]
        seconds = time.monotonic() - began
    return Undisturbed(Path(base_args.trainer.run_dir) / config.stem, seconds, [host.said for host in job.hosts])
