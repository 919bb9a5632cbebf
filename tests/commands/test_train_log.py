"""What `lodos train` logs, and what never gets there."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

import wandb_files
from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.tracking.jsonl import read_records
from lodos.train.optim import OptimizerConfig
from train_args import named


def test_the_log_has_the_learning_rate_of_each_step_without_asking_the_device(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Asked while a step is running, a device answers after it, and the step after that is dispatched too late.
    schedule = OptimizerConfig.schedule

    def traced_only(config: OptimizerConfig, num_train_steps: int) -> Any:
        compute = schedule(config, num_train_steps)

        def checked(count: Any) -> Any:
            assert isinstance(count, jax.core.Tracer)
            return compute(count)

        return checked

    monkeypatch.setattr(OptimizerConfig, "schedule", traced_only)
    result = train(args)
    monkeypatch.undo()
    steps = [
        record for record in read_records(result.config.trainer.run_folder / "log.jsonl") if "train/loss" in record
    ]
    expected = [float(args.optimizer.schedule(6)(step)) for step in range(6)]
    assert [record["train/learning_rate"] for record in steps] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_every_tracker_has_what_the_log_has_and_no_secret(
    args: TrainArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    canaries = {"HF_TOKEN": "hf_canary1", "WANDB_API_KEY": "canary2" * 6, "AWS_SECRET_ACCESS_KEY": "canary3"}
    for name, value in canaries.items():
        monkeypatch.setenv(name, value)
    trackers: list[dict[str, Any]] = [
        {"type": "wandb", "project": "alpaca", "mode": "offline"},
        {"type": "tensorboard"},
        {"type": "jsonl"},
    ]
    url = "https://user:canary4@localhost:9/v.jsonl?token=canary5"
    monkeypatch.setattr("lodos.commands.run_log.encode_config", _with_data(url))
    result = train(named(args, "tracked", tracker=trackers))
    folder = result.config.trainer.run_folder
    summary, *records = read_records(folder / "log.jsonl")

    names = {name for record in records for name in record} - {"step", "time"}
    assert names >= {
        "train/loss",
        "eval/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/lora_A_norm",
        "train/lora_B_norm",
        "train/tokens_per_second",
        "train/trained_tokens_per_second",
        "train/share_of_peak",
        "train/data_wait_seconds",
        "train/epoch",
    }
    assert any(name.endswith("_peak_bytes") for name in names)
    facts = summary["summary"]
    assert facts["config"]["lora"]["r"] == 4
    assert facts["config"]["data"] == "https://localhost:9/v.jsonl"
    assert facts["trainable_parameters"] > 0
    assert all(0 < record["train/share_of_peak"] < 1 for record in records if "train/loss" in record)

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        logged = [(record["step"], record[name]) for record in records if name in record]
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in shown] == [step for step, _ in logged]
        assert [value for _, value in shown] == pytest.approx([value for _, value in logged])
    (file,) = folder.glob("wandb/offline-run-*-tracked/run-tracked.wandb")
    losses = [(row["_step"], row["train/loss"]) for row in wandb_files.history(file) if "train/loss" in row]
    assert losses == [(record["step"], record["train/loss"]) for record in records if "train/loss" in record]

    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for canary in (*canaries.values(), "canary4", "canary5"):
        assert canary.encode() not in written


def _with_data(url: str) -> Any:
    """The settings of a run as they would be had its rows come from `url`."""
    from lodos.config_parsing import encode_config

    return lambda config: encode_config(dataclasses.replace(config, data=url))
