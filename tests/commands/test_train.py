"""`lodos train` from files to files, on a tiny model."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import pytest

import wandb_files
from lodos.commands import train as train_command
from lodos.commands.loaders import make_loaders
from lodos.commands.run_log import RunLog
from lodos.commands.train import main, train
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.tracking.jsonl import read_records
from lodos.train.config import CheckpointerConfig, TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.trainer import Trainer


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


def named(args: TrainArgs, run_id: str, **trainer: Any) -> TrainArgs:
    return dataclasses.replace(args, trainer=dataclasses.replace(args.trainer, id=run_id, **trainer))


def test_an_interrupted_run_resumes_to_the_same_adapter_and_log(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Evaluated and saved every third step, so that a step can be dispatched before the numbers of step 1 come.
    args = named(args, "straight", steps_per_eval=3, checkpointer=CheckpointerConfig(save_interval=3))
    straight = train(args)

    on_step = RunLog.on_step

    def interrupt_at_1(log: RunLog, report: Any) -> None:
        on_step(log, report)
        if report.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunLog, "on_step", interrupt_at_1)
    stopped = train(named(args, "stopped"))
    monkeypatch.setattr(RunLog, "on_step", on_step)
    assert stopped.interrupted
    assert stopped.step == 2
    assert stopped.adapter.name == "step-2"

    config_path = stopped.config.trainer.run_folder / "config.yaml"
    assert main(["--config_path", str(config_path)]) == 0
    assert "Finished 6 steps" in capsys.readouterr().err
    resumed = stopped.adapter.with_name("step-6")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (resumed / name).read_bytes() == (straight.adapter / name).read_bytes()

    def losses(run_id: str) -> list[tuple[int, str, float]]:
        path = Path(args.trainer.run_dir) / run_id / "log.jsonl"
        return [
            (record["step"], key, record[key])
            for record in read_records(path)
            for key in ("train/loss", "eval/loss")
            if key in record
        ]

    # The stop at step 2 evaluated once more than the straight run did; everything else is the same.
    extra = [entry for entry in losses("stopped") if entry[:2] == (2, "eval/loss")]
    assert len(extra) == 1
    assert [entry for entry in losses("stopped") if entry not in extra] == losses("straight")
    assert [step for step, key, _ in losses("stopped") if key == "train/loss"] == [1, 2, 3, 4, 5, 6]


def _other_rows(args: TrainArgs) -> TrainArgs:
    path = Path(str(args.data))
    path.write_text(path.read_text(encoding="utf-8").replace("Say a.", "Say z."), encoding="utf-8")
    return args


def _other_weights(args: TrainArgs) -> TrainArgs:
    from safetensors.numpy import load_file, save_file

    path = Path(args.model_name_or_path) / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, path, metadata={"format": "pt"})
    return args


@pytest.mark.parametrize(
    ("change", "named_difference"),
    [
        (_other_rows, r"training examples: 16 \("),
        (_other_weights, "base model: "),
        (lambda args: dataclasses.replace(args, lora=LoraConfig(r=4, alpha=3.0, dropout=0.1)), "lora.alpha: 8.0 in"),
        (
            lambda args: dataclasses.replace(args, optimizer=OptimizerConfig(learning_rate=2e-2)),
            "optimizer.learning_rate: 0.01 in the checkpoint, 0.02 in this run",
        ),
        (lambda args: dataclasses.replace(args, mask_inputs=False), r"training examples: 16 \("),
        (
            lambda args: dataclasses.replace(args, packing=True, max_tune_length=512),
            "packing: False in the checkpoint, True in this run.\n  positions: not there in the checkpoint, 512",
        ),
        (lambda args: named(args, "straight", seed=5), "trainer.seed: 0 in the checkpoint, 5"),
    ],
)
def test_a_run_is_not_resumed_with_anything_else_that_decides_its_numbers(
    args: TrainArgs, change: Any, named_difference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(named(args, "straight", num_train_steps=2))
    changed = change(args)
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=named_difference):
        train(changed)


def test_a_run_goes_on_with_more_steps_elsewhere_and_with_other_microbatches(args: TrainArgs, tmp_path: Path) -> None:
    train(named(args, "straight", num_train_steps=2))
    moved = dataclasses.replace(args, hf_save_path=str(tmp_path / "elsewhere"))
    assert train(named(moved, "straight", per_device_parallelism=2, num_train_steps=3)).step == 3


def test_the_best_adapter_is_that_of_the_lowest_held_out_loss(args: TrainArgs) -> None:
    result = train(args)
    records = [
        record for record in read_records(result.config.trainer.run_folder / "log.jsonl") if "eval/loss" in record
    ]
    assert [record["step"] for record in records] == [2, 4, 6]
    best = min(records, key=lambda record: record["eval/loss"])
    assert result.best is not None
    assert (result.best.step, result.best.loss) == (best["step"], best["eval/loss"])
    assert result.best_adapter is not None
    card = (result.best_adapter / "README.md").read_text(encoding="utf-8")
    assert f"| step | {best['step']} |" in card


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
        env={**os.environ, "JAX_LOG_COMPILES": "1", "LODOS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "row 2" in done.stderr
    assert "Finished XLA compilation of jit(_train_step)" not in done.stderr


def test_accumulation_gives_the_same_losses(args: TrainArgs) -> None:
    args = dataclasses.replace(args, lora=LoraConfig(r=4))
    whole, parts = train(named(args, "whole")), train(named(args, "parts", per_device_parallelism=1))

    def losses(result: Any) -> list[float]:
        records = read_records(result.config.trainer.run_folder / "log.jsonl")
        return [record["train/loss"] for record in records if "train/loss" in record]

    assert losses(whole) == pytest.approx(losses(parts), rel=1e-4)


def test_a_merged_model_is_saved_on_request(args: TrainArgs) -> None:
    result = train(dataclasses.replace(args, save_merged=True, merged_dtype="bfloat16"))
    assert result.merged == result.config.trainer.run_folder / "merged" / "step-6"
    assert json.loads((result.merged / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(lora=LoraConfig(target_modules=["c_attn"])), r"no module matches 'c_attn'.*q_proj, k_proj"),
        (dict(data="nowhere.json"), "nowhere.json"),
        (dict(model_name_or_path="./nowhere"), "there is no such folder"),
        (dict(max_tune_length=3), "3"),
    ],
)
def test_what_is_wrong_is_said_before_any_weight_is_loaded(
    args: TrainArgs, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_pretrained(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", load_pretrained)
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(args, **change))
    assert not (Path(args.trainer.run_dir) / "straight").exists()


def test_too_little_memory_is_explained(args: TrainArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    def out_of_memory(_: TrainArgs) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 26311100856 bytes.")

    monkeypatch.setattr(train_command, "train", out_of_memory)
    with pytest.raises(UserError, match="per_device_parallelism"):
        main(["--model_name_or_path", args.model_name_or_path, "--data", args.data])


def test_the_chat_template_of_the_training_goes_with_adapter_and_merged_model(args: TrainArgs, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    turns = [[{"role": "user", "content": f"Say {x}."}, {"role": "assistant", "content": x * 3}] for x in "abcdefgh"]
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns), encoding="utf-8")
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    result = train(dataclasses.replace(args, data=str(chats), chat_template=template, save_merged=True))
    assert result.merged is not None
    for folder in (result.adapter, result.best_adapter, result.merged):
        assert AutoTokenizer.from_pretrained(folder).chat_template == template


@pytest.mark.parametrize(
    ("option", "value"),
    [("hf_save_path", "gs://bucket/peft"), ("merged_hf_save_path", "s3://bucket"), ("data", "no-such-file.json")],
)
def test_a_place_that_cannot_be_is_refused_before_weights_are_read(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(UserError):
        train(dataclasses.replace(args, **{option: value}))


def test_streamed_data_that_would_train_wrongly_is_refused(args: TrainArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    config = dataclasses.replace(args, streaming=True, validation=None, max_tune_length=10, max_dropped=0.0)
    with pytest.raises(UserError, match=r"None of the first 20 rows|were left out"):
        train(config)


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


def test_a_tracker_that_cannot_be_used_is_refused_before_weights_are_read(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lodos.tracking import external

    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    monkeypatch.setattr(external.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'lodos\[tensorboard\]'"):
        train(named(args, "untracked", tracker={"type": "tensorboard"}))
