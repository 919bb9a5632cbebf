"""What of a run stays, when it ends early, and what it starts from."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lodos.commands import train as train_command
from lodos.commands.train import main, train
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.lora.config import LoraConfig
from lodos.places.manifest import problems
from lodos.tracking.jsonl import read_records
from lodos.train.config import CheckpointerConfig
from lodos.train.optim import OptimizerConfig
from train_args import interrupted_after, named


def losses(args: TrainArgs, key: str) -> list[tuple[int, float]]:
    records = read_records(args.trainer.run_folder / "log.jsonl")
    return [(record["step"], record[key]) for record in records if key in record]


def folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_the_newest_exports_and_those_of_the_best_step_stay(args: TrainArgs) -> None:
    args = dataclasses.replace(args, hf_save_steps=1, hf_save_keep=2, save_merged=True)
    result = train(args)
    assert result.best is not None
    expected = sorted({f"step-{result.best.step}", "step-5", "step-6"})
    run = args.trainer.run_folder
    assert folders(run / "merged") == expected  # pyright: ignore[reportArgumentType]
    assert folders(run / "peft") == ["best", *expected]  # pyright: ignore[reportArgumentType]
    assert all(problems(run / "peft" / name) == [] for name in ("best", *expected))


def test_a_run_ends_early_and_where_it_would_have_when_it_was_stopped(
    args: TrainArgs, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate of almost nothing: no loss falls by 0.5 any more after the first."""
    early = {"patience": 2, "min_delta": 0.5}
    args = dataclasses.replace(args, optimizer=OptimizerConfig(learning_rate=1e-5), early_stopping=early)
    settings: Any = dict(steps_per_eval=2, num_train_steps=20)
    straight = train(named(args, "early", **settings))
    assert (straight.step, straight.stopped_by) == (6, 0)
    assert [step for step, _ in losses(straight.config, "eval/loss")] == [2, 4, 6]
    assert straight.best is not None
    assert (straight.best_adapter / "adapter_model.safetensors").exists()  # pyright: ignore[reportOptionalOperand]

    with interrupted_after(3):
        stopped = train(named(args, "stopped", **settings))
    assert stopped.interrupted
    for _ in range(2):  # also when it is over
        assert main(["--config_path", str(stopped.config.trainer.run_folder / "config.yaml")]) == 0
        assert "Ended after 6 steps: the held-out loss has stopped falling" in capsys.readouterr().err
    ended = Path(str(stopped.adapter)).with_name("step-6") / "adapter_model.safetensors"
    assert ended.read_bytes() == (straight.adapter / "adapter_model.safetensors").read_bytes()


def test_early_stopping_needs_held_out_rows(args: TrainArgs) -> None:
    with pytest.raises(UserError, match=r"early_stopping: goes by the held-out loss\. Give validation"):
        dataclasses.replace(args, early_stopping={"patience": 2}, validation=None)


@pytest.mark.parametrize(
    "source", ["peft", "run", *(pytest.param(s, marks=pytest.mark.long) for s in ("adapter", "checkpoint"))]
)
def test_training_goes_on_from_an_adapter_or_a_run(args: TrainArgs, tmp_path: Path, source: str) -> None:
    first = train(named(args, "first", num_train_steps=4))
    run = first.config.trainer.run_folder
    place = {"adapter": run / "peft" / "step-4", "run": run, "checkpoint": run / "train_state" / "4"}.get(source)
    if source == "peft":
        place = saved_by_peft(args, run / "peft" / "step-4", tmp_path / "theirs")
    second = dataclasses.replace(named(args, "second", num_train_steps=1), initialize_from=str(place))
    if source in ("adapter", "peft"):
        with pytest.raises(UserError, match=r"initialize_optimizer: .* an adapter has no optimizer"):
            train(dataclasses.replace(second, initialize_optimizer=True))
        with pytest.raises(UserError, match=r"(?s)has other LoRA layers.*rank 4, scale 2 in the adapter.*--lora\.r 4"):
            train(dataclasses.replace(second, lora=LoraConfig(r=8)))
    still = dataclasses.replace(second, optimizer=OptimizerConfig(learning_rate=1e-30))
    result = train(still)
    before = load_file(str(run / "peft" / "step-4" / "adapter_model.safetensors"))
    after = load_file(str(result.adapter / "adapter_model.safetensors"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert result.step == 1
    # Its own run: what it started from is not looked at again, and may be gone.
    shutil.rmtree(run)
    assert train(dataclasses.replace(still, trainer=dataclasses.replace(still.trainer, num_train_steps=2))).step == 2
    with pytest.raises(UserError, match="initialize_from: "):
        train(dataclasses.replace(still, initialize_from="elsewhere"))


def saved_by_peft(args: TrainArgs, adapter: Path, folder: Path) -> Path:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(args.model_name_or_path)
    PeftModel.from_pretrained(base, adapter).save_pretrained(folder)
    return folder


def test_the_optimizer_comes_along_and_its_schedule_begins_anew(args: TrainArgs) -> None:
    """With all of the state taken along at a constant rate, two runs of two steps are one of four but for the data."""
    optimizer = OptimizerConfig(learning_rate=1e-2, lr_schedule="constant", warmup=0)
    args = dataclasses.replace(args, optimizer=optimizer, lora=LoraConfig(r=4))
    first = train(named(args, "first", num_train_steps=2))
    run = str(first.config.trainer.run_folder)
    config = dataclasses.replace(named(args, "with", num_train_steps=1), initialize_from=run, initialize_optimizer=True)
    state = {}
    for name, one in (("with", config), ("without", dataclasses.replace(config, initialize_optimizer=False))):
        train(dataclasses.replace(one, trainer=dataclasses.replace(one.trainer, id=name)))
        manifest = Path(run).with_name(name) / "train_state" / "1" / "lodos-manifest.json"
        state[name] = json.loads(manifest.read_text(encoding="utf-8"))["facts"]["arrays"]
    moments = [name for name in state["with"] if ".mu." in name or ".nu." in name]
    assert moments
    assert any(state["with"][name] != state["without"][name] for name in moments)
    from lodos.train.checkpoint import read_arrays

    found = read_arrays(Path(run).with_name("with") / "train_state" / "1")["opt_state"]
    counts = {name: int(value) for name, value in found.items() if name.endswith("count")}
    assert sorted(counts.values()) == [1, 3]  # of the schedule, and of Adam's moments
    with pytest.raises(UserError, match="initialize_optimizer: not what this run trains"):
        train(dataclasses.replace(named(config, "other"), optimizer=OptimizerConfig(type="sgd")))


def test_a_damaged_run_is_no_start(args: TrainArgs) -> None:
    first = train(named(args, "first", num_train_steps=2))
    folder = Path(str(first.config.trainer.checkpoint_folder)) / "2"
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"initialize_from: .*2: not as it was written: .* bytes, .* were written"):
        train(dataclasses.replace(named(args, "second"), initialize_from=str(folder)))


def test_a_second_process_of_the_run_is_refused_before_anything_is_read(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lodos.places.lock import only_writer

    monkeypatch.setattr(train_command, "newest_step", lambda config: pytest.fail("looked at"))
    with only_writer(args.trainer.run_folder):
        with pytest.raises(UserError, match="another process of this machine is writing it"):
            train(args)
        assert folders(args.trainer.run_folder) == ["lodos-lock.json"]  # pyright: ignore[reportArgumentType]


def test_what_killed_saves_left_is_cleared_at_the_next_start(args: TrainArgs) -> None:
    args = named(args, "straight", num_train_steps=1, checkpointer=CheckpointerConfig(save_interval=1))
    run = Path(str(args.trainer.run_folder))
    left = [run / "peft" / ".step-1.ab_c1234.partial", run / "train_state" / ".1.partial" / "d"]
    for folder in left:
        folder.mkdir(parents=True)
    (run / ".config.yaml.0123456789abcdef0123456789abcdef.partial").touch()
    (run / ".mine").touch()
    train(args)
    assert folders(run) == [".mine", "config.yaml", "log.jsonl", "peft", "train_state"]
    assert folders(run / "peft") == ["best", "step-1"]
    assert folders(run / "train_state") == ["1"]
