"""`lodos train` goes on where it was interrupted, and only with what it began with."""

import dataclasses
import datetime
import types
from pathlib import Path
from typing import Any

import pytest

from lodos.commands.template_date import with_template_date
from lodos.commands.train import main, train
from lodos.config import TrainArgs
from lodos.data.tokens import source_store
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.tracking.jsonl import read_records
from lodos.train.config import CheckpointerConfig
from lodos.train.optim import OptimizerConfig
from train_args import interrupted_after, named


def test_an_interrupted_run_resumes_to_the_same_adapter_and_log(
    args: TrainArgs, capsys: pytest.CaptureFixture[str]
) -> None:
    # Evaluated and saved every third step, so that a step can be dispatched before the numbers of step 1 come.
    args = named(args, "straight", steps_per_eval=3, checkpointer=CheckpointerConfig(save_interval=3))
    straight = train(args)

    with interrupted_after(1):
        stopped = train(named(args, "stopped"))
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

    assert losses("stopped") == losses("straight")
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


def test_the_day_of_a_template_is_that_on_which_the_run_began(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = tmp_path / "chat.jsonl"
    talk = '{"messages": [{"role": "user", "content": "Say %s."}, {"role": "assistant", "content": "%s"}]}\n'
    rows.write_text("".join(talk % (letter, letter) for letter in "abcdefgh"), encoding="utf-8")
    template = (
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "
        "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    chat = dataclasses.replace(named(args, "dated"), data=str(rows), validation=2, chat_template=template)

    def today(day: str) -> None:
        class Day(datetime.date):
            @classmethod
            def today(cls) -> datetime.date:
                return cls.fromisoformat(day)

        monkeypatch.setattr(source_store, "datetime", types.SimpleNamespace(date=Day))

    today("2026-02-27")
    with interrupted_after(1):
        assert train(chat).config.template_date == "2026-02-27"
    today("2026-02-28")
    with interrupted_after(3):  # by the run's name alone; the training examples are compared, too
        assert train(chat).config.template_date == "2026-02-27"
    saved = chat.trainer.run_folder / "config.yaml"
    assert "template_date: '2026-02-27'" in saved.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="template_date: 2026-02-27 in the checkpoint, 2026-02-28 in this run"):
        train(dataclasses.replace(chat, template_date="2026-02-28"))
    converter = HFCheckpointConverter.from_hf(chat.model_name_or_path, chat_template=template)
    anew = dataclasses.replace(chat.trainer, load_checkpoint=False)
    for trainer, day in ((chat.trainer, "2026-02-27"), (anew, "2026-02-28")):
        assert with_template_date(dataclasses.replace(chat, trainer=trainer), converter).template_date == day
    assert with_template_date(args, converter).template_date == "2026-02-28"
    undated = HFCheckpointConverter.from_hf(args.model_name_or_path)
    assert with_template_date(args, undated).template_date is None
