"""The mappings of a YAML file become trackers, or errors that say what to write."""

from pathlib import Path
from typing import Any

import pytest

from lodos.config import TrainArgs
from lodos.config_parsing import dump_config, parse_config
from lodos.errors import UserError
from lodos.tracking.config import JsonlConfig, TensorboardConfig, TrackioConfig, WandbConfig, parse_trackers

REQUIRED = "model_name_or_path: m\ndata: d\n"


def trainer_of(tmp_path: Path, text: str, *flags: str) -> Any:
    path = tmp_path / "config.yaml"
    path.write_text(REQUIRED + text, encoding="utf-8")
    return parse_config(TrainArgs, ["--config_path", str(path), *flags], prog="lodos train")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer: {seed: 1}", ()),
        ("trainer:\n  wandb:\n    # project: x\n", ()),
        ('trainer: {wandb: {project: "levanter-alpaca", tags: ["alpaca", "lora"]}}', "levanter-alpaca"),
        ('trainer: {tracker: {type: wandb, project: "levanter-alpaca", tags: ["alpaca", "lora"]}}', "levanter-alpaca"),
        (
            "trainer:\n  tracker:\n  - {type: tensorboard, logdir: logs}\n  - {type: trackio, project: p}\n"
            "  - {type: jsonl}\n  wandb: {mode: offline}\n",
            (
                WandbConfig(mode="offline"),
                TensorboardConfig(logdir="logs"),
                TrackioConfig(project="p"),
                JsonlConfig(),
            ),
        ),
    ],
)
def test_the_seeds_keys_load(tmp_path: Path, text: str, expected: Any) -> None:
    if expected == "levanter-alpaca":
        expected = (WandbConfig(project="levanter-alpaca", tags=("alpaca", "lora")),)
    assert trainer_of(tmp_path, text).trainer.trackers == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer: {tracker: {type: noop}}", ()),
        ("trainer: {wandb: {resume: allow}, tracker: [{type: noop}]}", (WandbConfig(),)),
        ("trainer: {wandb: {resume: true}}", (WandbConfig(),)),
    ],
)
def test_what_asks_for_nothing_is_passed_over(tmp_path: Path, text: str, expected: Any) -> None:
    assert trainer_of(tmp_path, text).trainer.trackers == expected


def test_flags_reach_into_the_settings(tmp_path: Path) -> None:
    config = trainer_of(tmp_path, "trainer: {wandb: {project: p}}", "--trainer.wandb.mode", "offline")
    assert config.trainer.trackers == (WandbConfig(project="p", mode="offline"),)


def test_the_resolved_config_resumes_with_the_same_trackers(tmp_path: Path) -> None:
    config = trainer_of(tmp_path, "trainer: {wandb: {tags: [a]}, tracker: [{type: tensorboard, flush_secs: 3}]}")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert parse_config(TrainArgs, ["--config_path", str(path)], prog="lodos train") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wandb: {projct: x}", r"trainer\.wandb\.projct: unknown\. Did you mean wandb\.project\?"),
        ("wandb: {mode: onlin}", r"wandb\.mode: must be .*online,offline,disabled.*found 'onlin'"),
        ("wandb: {tags: lora}", r"wandb\.tags: must be \[TEXT,\.\.\.\].*found 'lora'"),
        ("wandb: {api_key: abc}", r"wandb\.api_key: unknown"),
        ("wandb: {resume: never}", r"wandb\.resume: Leave it out: the same trainer\.id"),
        ("wandb: {save_xla_dumps: true}", r"wandb\.save_xla_dumps: Set XLA_FLAGS"),
        ("tracker: {project: x}", r"tracker\.type: missing\. Give one of wandb, tensorboard"),
        ("tracker: {type: wanbd}", r"tracker\.type: 'wanbd': unknown\. Did you mean wandb\?"),
        ("tracker: {type: json_logger}", r"log\.jsonl is always written"),
        ("tracker: [{type: trackio, space_id: a/b}]", r"tracker\[0\]\.space_id: Leave it out: numbers stay"),
        ("tracker: [{type: tensorboard, purge_step: 3}]", r"tracker\[0\]\.purge_step: Leave it out"),
        ("{wandb: {}, tracker: {type: wandb}}", r"wandb is given 2 times"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(tmp_path: Path, text: str, message: str) -> None:
    text = text if text.startswith("{") else f"{{{text}}}"
    with pytest.raises(UserError, match=message):
        trainer_of(tmp_path, f"trainer: {text}")


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(UserError) as error:
        parse_trackers({"projct": "x"}, [{"type": "tensorboard", "comment": "c"}, {"type": "nothing"}])
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "wandb.projct",
        "tracker[0].comment",
        "tracker[1].type",
    ]
