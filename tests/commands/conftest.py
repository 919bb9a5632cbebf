"""A run of `lodos train` that tests change as they need."""

import json
from pathlib import Path
from typing import Any

import pytest

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
