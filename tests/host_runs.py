"""Runs of `lodos train` on several hosts: what they are told, and what they leave."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lodos.config import TrainArgs
from lodos.config_parsing import dump_config
from lodos.lora.config import LoraConfig
from lodos.tracking.jsonl import read_records
from lodos.train.config import CheckpointerConfig, TrainerConfig
from lodos.train.optim import OptimizerConfig

STEPS = 8


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A run of two hosts of four devices that nobody disturbed."""

    run: Path
    seconds: float
    """From when all hosts were there."""
    said: list[str]
    """By each host."""


def run_of_everything(model: Path, folder: Path) -> TrainArgs:
    """A run with everything: packed, accumulating, evaluating, saving checkpoints, adapters and merged models."""
    rows = [{"instruction": f"Say {w}.", "output": w * (2 + i % 5)} for i, w in enumerate("abcdefghijklmnopqrst" * 3)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return TrainArgs(
        model_name_or_path=str(model),
        data=str(folder / "rows.json"),
        validation=8,
        prompts={"prompt_input": "{instruction} {input}:", "prompt_no_input": "{instruction}:"},
        packing=True,
        seq_len=48,
        max_tune_length=48,
        save_merged=True,
        hf_save_steps=4,
        lora=LoraConfig(r=4, dropout=0.1),
        # Where a gradient is near zero, Adam's usual epsilon of 1e-8 makes a whole step of its rounding error.
        optimizer=OptimizerConfig(learning_rate=1e-2, epsilon=1e-3),
        trainer=TrainerConfig(
            id="alone",
            run_dir=str(folder / "runs"),
            num_train_steps=STEPS,
            train_batch_size=16,
            per_device_parallelism=8,
            steps_per_eval=2,
            checkpointer=CheckpointerConfig(save_interval=2),
        ),
    )


def written(args: TrainArgs, name: str, **trainer: Any) -> Path:
    """The config of a run of another name as a file, which leaves out the accumulation of the run alone."""
    settings = {"per_device_parallelism": -1, "id": name, **trainer}
    path = Path(args.trainer.run_dir).parent / f"{name}.yaml"
    args = dataclasses.replace(args, trainer=dataclasses.replace(args.trainer, **settings))
    path.write_text(dump_config(args), encoding="utf-8")
    return path


def command(config: Path) -> list[str | Path]:
    return ["-m", "lodos", "train", config]


def numbers(run: Path) -> dict[tuple[int, str], float]:
    """By step and name, those that a run logged of its training."""
    return {
        (record["step"], key): record[key]
        for record in read_records(run / "log.jsonl")
        for key in ("train/loss", "train/grad_norm", "eval/loss")
        if key in record
    }
