"""Every YAML beside the examples is a config of its script and, where that trains LoRA, of `lodos train`."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from coming_from.test_levanter import CONFIGS as LEVANTER
from lodos import HFCheckpointConverter, make_loaders
from lodos.config import TrainArgs
from lodos.config_parsing import parse_config
from lodos.prompting.prompts import read_prompts
from lodos.tracking.config import WandbConfig

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

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


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_tracker_that_a_config_offers_can_be_had(name: str, tmp_path: Path) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert not parsed(SCRIPTS[name], EXAMPLES / name).trainer.trackers  # an example reports to nobody
    (tmp_path / name).write_text(text.replace("  # wandb:", "  wandb:"), encoding="utf-8")
    (tracker,) = parsed(SCRIPTS[name], tmp_path / name).trainer.trackers
    assert tracker == WandbConfig(project="alpaca" if "alpaca" in name else "gsm8k", tags=tracker.tags)
    assert tracker.tags


def test_the_prompts_of_code_alpaca_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    prompts = read_prompts(parsed("alpaca_lora", EXAMPLES / "code-alpaca-lora.yaml").prompts)
    assert prompts.render("Sort.", "[3, 1]").startswith("Write a program")


@pytest.mark.parametrize("path", LEVANTER, ids=lambda path: path.stem)
def test_the_script_takes_levanters_data_where_a_config_of_its_users_names_none(path: Path) -> None:
    named = yaml.safe_load(path.read_text(encoding="utf-8")).get("data", "tatsu-lab/alpaca")
    assert parsed("alpaca_lora", path).data == named


@pytest.mark.parametrize("name", [name for name in SCRIPTS if "alpaca" in name])
def test_alpacas_own_rows_need_no_setting(
    name: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in tatsu-lab/alpaca: a column of the same once more, rendered, and some outputs that are empty."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LODOS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"instruction": f"Say {word}.", "input": word if i % 2 else "", "output": "" if i == 3 else word * 3}
        for i, word in enumerate("abcdefgh")
    ]
    rows = [
        {**row, "text": f"### Instruction:\n{row['instruction']}\n\n### Response:\n{row['output']}"} for row in rows
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    flags = {"model_name_or_path": llama, "data": tmp_path / "rows.json", "data_cache_dir": tmp_path / "cache"}
    config = parsed(SCRIPTS[name], EXAMPLES / name, *(str(part) for key in flags for part in (f"--{key}", flags[key])))
    loaders = make_loaders(config, HFCheckpointConverter.from_hf(str(llama)))
    assert loaders.prompting.format == "alpaca"
    assert loaders.fingerprint["training examples"].startswith("7 (")
