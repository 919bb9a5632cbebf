"""`lodos train` from files to files, on a tiny model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.lora.config import LoraConfig
from lodos.tracking.jsonl import read_records
from train_args import named


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
