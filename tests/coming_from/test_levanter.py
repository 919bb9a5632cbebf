"""Configs written for Levanter are taken as they are, key for key, or refused with what to write instead."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lodos.coming_from.levanter import ELSEWHERE, RENAMED, from_levanter
from lodos.config import TrainArgs
from lodos.config_parsing import known_names, parse_config
from lodos.errors import UserError
from lodos.tracking.config import WandbConfig

CONFIGS = sorted((Path(__file__).parent / "levanter_configs").glob("*.yaml"))
EVERYTHING = CONFIGS[-1]


def parsed(path: Path, *flags: str) -> TrainArgs:
    return parse_config(TrainArgs, ["--config_path", str(path), *flags], prog="lodos train")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_written_for_levanter_loads(path: Path) -> None:
    # The data is the default of Levanter's script, and of examples/alpaca_lora.py.
    config = parsed(path, "--data", "d")
    assert config.optimizer.learning_rate == 3e-4
    assert config.trainer.tensor_parallel_axes == ("mlp", "heads")
    assert str(config.trainer.policy.compute_dtype) == "bfloat16"
    (tracker,) = config.trainer.trackers
    assert isinstance(tracker, WandbConfig)
    assert tracker.project == "a-project"
    assert tracker.tags


def test_every_key_is_taken_under_the_name_it_has_here() -> None:
    config = parsed(EVERYTHING)
    assert (config.trainer.run_dir, config.trainer.fsdp_axis) == ("all-runs", "embed")
    assert (config.optimizer.warmup, config.optimizer.beta2, config.optimizer.min_lr_ratio) == (0.05, 0.95, 0.1)
    assert (config.hf_upload, config.lora.init, config.lora.target_modules) == (None, "default", ["q_proj", "v_proj"])
    checkpointer = config.trainer.checkpointer
    assert (checkpointer.base_path, checkpointer.save_interval) == ("checkpoints/", "1h30m")
    assert checkpointer.keep == [{"every": 100, "until": 500}, {"every": 1000}]


def test_no_key_is_renamed_or_refused_that_is_one_of_ours() -> None:
    ours = {name for name, _ in known_names(TrainArgs)}
    assert not ours & ELSEWHERE.keys()
    assert {renamed.to for renamed in RENAMED.values()} <= ours
    assert not {name for name, renamed in RENAMED.items() if name in ours and name != renamed.to}


@pytest.mark.parametrize("key", ELSEWHERE)
def test_a_key_without_a_place_here_is_an_error_that_says_what_to_write(key: str, tmp_path: Path) -> None:
    def nested(value: Any) -> dict[str, Any]:
        for part in reversed(key.split(".")):
            value = {part: value}
        return value

    for idle in (None, *ELSEWHERE[key].idle):
        values, problems = from_levanter(nested(idle))
        assert key.rsplit(".", 1)[-1] not in str(values)
        assert not problems
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(nested("something")), encoding="utf-8")
    with pytest.raises(UserError) as error:
        parsed(path, "--model_name_or_path", "m", "--data", "d")
    assert str(error.value) == f"{path}: {key}: {ELSEWHERE[key].instead}"
    assert re.search(r"[.)]$", str(error.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf_upload: true", "Write the name of your own"),
        ("lora: {zero_init_b: false}", "B always starts at zero"),
        ("optimizer: {warmup_ratio: 100}", "optimizer.warmup: <steps>"),
        ("optimizer: {warmup_ratio: 0.1, warmup: 10}", "optimizer.warmup is given too"),
        ("trainer: {fsdp_axis: [embed, mlp]}", "one axis"),
        ("trainer: {crash_on_nan: 1}", "not finite"),
        ("optimizer: {type: adam, weight_decay: 0.1}", "use adamw"),
        ("trainer: {ray: {}, log_dir: logs, jax_config: {a: 1}}", "Write trainer.run_dir(.|\n)*JAX_<NAME>"),
    ],
)
def test_a_value_that_cannot_be_meant_here_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model_name_or_path: m\ndata: d\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        parsed(path)


def test_flags_are_translated_like_the_file_and_win_over_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model_name_or_path: m\ndata: d\noptimizer: {warmup_ratio: 0.1}\n", encoding="utf-8")
    assert parsed(path, "--optimizer.warmup_ratio", "0.2").optimizer.warmup == 0.2
    assert parsed(path, "--optimizer.warmup", "5").optimizer.warmup == 5
    with pytest.raises(UserError, match=r"^--trainer.log_dir: "):
        parsed(path, "--trainer.log_dir", "logs")
