"""What `lodos train` refuses, before any weight is loaded where it can."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from lodos.commands import train as train_command
from lodos.commands.train import main, train
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from train_args import named


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


@pytest.mark.parametrize("streaming", [False, True])
def test_what_the_model_has_no_room_for_is_refused_before_weights_are_read(
    args: TrainArgs, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    config = dataclasses.replace(args, streaming=streaming, validation=args.data)
    short, _ = make_model(max_position_embeddings=16)
    with pytest.raises(
        UserError, match=r"rows are longer than the model's 16 positions .* has \d+ tokens: .*, row 1; "
    ):
        train(dataclasses.replace(config, model_name_or_path=str(short)))
    few, _ = make_model(vocab_size=len(HFCheckpointConverter.from_hf(args.model_name_or_path).tokenizer) - 1)
    size = HFCheckpointConverter.from_hf(str(few)).vocab_size
    held_out = tmp_path / "held_out.jsonl"
    last = HFCheckpointConverter.from_hf(str(few)).tokenizer.decode([size])
    held_out.write_text(json.dumps({"instruction": f"{last} " * 3, "output": "b"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"tokens beyond the {size} rows .*held_out.jsonl, row 1: .*\(id {size}\)"):
        train(dataclasses.replace(config, model_name_or_path=str(few), validation=str(held_out)))


@pytest.mark.parametrize(
    ("option", "value"),
    [("hf_save_path", "s3://bucket/peft"), ("merged_hf_save_path", "s3://bucket"), ("data", "no-such-file.json")],
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


def test_a_tracker_that_cannot_be_used_is_refused_before_weights_are_read(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lodos.tracking import external

    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    monkeypatch.setattr(external.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'lodos\[tensorboard\]'"):
        train(named(args, "untracked", tracker={"type": "tensorboard"}))


def test_too_little_memory_is_explained(args: TrainArgs, monkeypatch: pytest.MonkeyPatch) -> None:

    def out_of_memory(_: TrainArgs) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 26311100856 bytes.")

    monkeypatch.setattr(train_command, "train", out_of_memory)
    with pytest.raises(UserError, match="per_device_parallelism"):
        main(["--model_name_or_path", args.model_name_or_path, "--data", args.data])


@pytest.mark.parametrize("folder_is_there", [False, True])
def test_a_checkpoint_that_is_demanded_is_looked_for_before_anything_is_read(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, folder_is_there: bool
) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "from_hf", lambda *_, **__: pytest.fail("the model was read"))
    demanding = named(args, "none", load_checkpoint=True)
    if folder_is_there:
        demanding.trainer.checkpoint_folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"load_checkpoint: true, but there is no checkpoint in .*none"):
        train(demanding)
