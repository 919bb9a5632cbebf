"""Every YAML beside the examples, and those that Levanter's users have, is a config here."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lodos.config import TrainArgs
from lodos.config_parsing import parse_config
from lodos.data.text.prompts import read_prompts
from lodos.errors import UserError
from lodos.levanter import ELSEWHERE, RENAMED, from_levanter

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
LEVANTER = Path(__file__).parent / "levanter"

SCRIPTS = {
    "alpaca.yaml": "alpaca",
    "alpaca-llama2.yaml": "alpaca",
    "alpaca-lora.yaml": "alpaca_lora",
    "alpaca-lora-llama2.yaml": "alpaca_lora",
    "code-alpaca-lora.yaml": "alpaca_lora",
    "gsm8k-lora.yaml": "gsm8k_lora",
}
"""Each config and the script that it is for."""

pytestmark = pytest.mark.usefixtures("example_modules")


def parsed(script: str, path: Path, *flags: str) -> Any:
    """As the script reads it; `lodos train` for `lodos`."""
    args = TrainArgs if script == "lodos" else importlib.import_module(script).TrainArgs
    return parse_config(args, ["--config_path", str(path), *flags], prog="train")


def test_every_config_beside_the_examples_is_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == {*SCRIPTS, "code-alpaca-prompts.yaml"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_config_is_one_of_its_script_and_of_lodos_train(name: str) -> None:
    config = parsed(SCRIPTS[name], EXAMPLES / name)
    assert config.optimizer.learning_rate in (2e-5, 3e-4, 5e-4)
    if SCRIPTS[name] != "alpaca":
        assert parsed("lodos", EXAMPLES / name).trainer == config.trainer


def test_the_alpaca_configs_hold_the_seeds_numbers() -> None:
    config = parsed("alpaca_lora", EXAMPLES / "alpaca-lora-llama2.yaml")
    assert (config.trainer.num_train_steps, config.trainer.train_batch_size) == (1218, 128)
    assert (config.trainer.per_device_parallelism, config.trainer.mp) == (4, "p=f32,c=bfloat16")
    assert config.trainer.tensor_parallel_axes == ("mlp", "heads")
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (3e-4, 0.0)


def test_the_prompts_of_code_alpaca_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    prompts = read_prompts(parsed("alpaca_lora", EXAMPLES / "code-alpaca-lora.yaml").prompts)
    assert prompts.render("Sort.", "[3, 1]").startswith("Write a program")


def without_wandb(path: Path, folder: Path) -> Path:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["trainer"].pop("wandb", None)
    values["optimizer"]["learning_rate"] = float(values["optimizer"]["learning_rate"])  # PyYAML reads 3e-4 as text
    (folder / path.name).write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / path.name


@pytest.mark.parametrize("path", sorted(LEVANTER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_written_for_levanter_loads(path: Path, tmp_path: Path) -> None:
    path = without_wandb(path, tmp_path)
    config = parsed("alpaca_lora", path)
    assert config.optimizer.learning_rate == 3e-4
    assert config.data == ("tatsu-lab/alpaca" if "data" not in path.read_text(encoding="utf-8") else config.data)
    assert parsed("lodos", path, "--data", "d").trainer == config.trainer


def test_every_key_is_taken_under_the_name_it_has_here() -> None:
    config = parsed("alpaca_lora", LEVANTER / "everything.yaml")
    assert (config.trainer.run_dir, config.trainer.fsdp_axis) == ("all-runs", "embed")
    assert (config.optimizer.warmup, config.optimizer.beta2, config.optimizer.min_lr_ratio) == (0.05, 0.95, 0.1)
    assert (config.hf_upload, config.lora.init, config.lora.target_modules) == (None, "default", ["q_proj", "v_proj"])
    checkpointer = config.trainer.checkpointer
    assert (checkpointer.base_path, checkpointer.save_interval) == ("checkpoints/", "1h30m")
    assert checkpointer.keep == [{"every": 100, "until": 500}, {"every": 1000}]
    assert str(config.trainer.policy.compute_dtype) == "bfloat16"


@pytest.mark.parametrize("key", ELSEWHERE)
def test_a_key_without_a_place_here_is_an_error_that_says_what_to_write(key: str, tmp_path: Path) -> None:
    def nested(value: Any) -> dict[str, Any]:
        for part in reversed(key.split(".")):
            value = {part: value}
        return value

    for idle in (None, *ELSEWHERE[key].idle):
        assert key.rsplit(".", 1)[-1] not in str(from_levanter(nested(idle)))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(nested("something")), encoding="utf-8")
    with pytest.raises(UserError) as error:
        parsed("lodos", tmp_path / "c.yaml")
    assert str(error.value) == f"{tmp_path / 'c.yaml'}: {key}: {ELSEWHERE[key].instead}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf_upload: true", "Write the name of your own"),
        ("lora: {zero_init_b: false}", "B always starts at zero"),
        ("optimizer: {warmup_ratio: 100}", "optimizer.warmup: <steps>"),
        ("optimizer: {warmup_ratio: 0.1, warmup: 10}", "optimizer.warmup is given too"),
        ("trainer: {fsdp_axis: [embed, mlp]}", "one axis"),
        ("optimizer: {type: adam, weight_decay: 0.1}", "Use adamw"),
        ("trainer: {checkpointer: {save_interval: soon}}", "such as 90s, 10m or 1h30m"),
        ("trainer: {checkpointer: {keep: [{every: 0}]}}", "at least 1 step"),
        ("trainer: {checkpointer: {keep: [{every: 10}, {every: 100}]}}", "comes after all steps"),
        ("trainer: {ray: {}, log_dir: logs, jax_config: {a: 1}}", "Write trainer.run_dir(.|\n)*JAX_<NAME>"),
    ],
)
def test_a_value_that_cannot_be_meant_here_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"model_name_or_path: m\ndata: d\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        parsed("lodos", tmp_path / "c.yaml")


def test_flags_are_translated_like_the_file() -> None:
    path = EXAMPLES / "alpaca-lora.yaml"
    assert parsed("lodos", path, "--optimizer.warmup_ratio", "0.2").optimizer.warmup == 0.2
    with pytest.raises(UserError, match=r"^--trainer.log_dir: "):
        parsed("lodos", path, "--trainer.log_dir", "logs")


def test_no_translated_key_is_one_of_ours_by_another_name() -> None:
    from lodos.config_parsing import known_names

    ours = {name for name, _ in known_names(TrainArgs)}
    assert not ours & ELSEWHERE.keys()
    assert {renamed.to for renamed in RENAMED.values()} <= ours
    assert all(re.search(r"[.)]$", elsewhere.instead) for elsewhere in ELSEWHERE.values())
