"""`examples/alpaca_lora.py`: what it changes in `alpaca.py`, and that it does what `lodos train` does."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from hub_server import HubServer
from lodos.commands.train import main
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.places.manifest import MANIFEST
from lodos.tracking.jsonl import read_records

TINY = """
mask_inputs: true
lora: {r: 4, alpha: 8.0, dropout: 0.1}
optimizer: {learning_rate: 1e-2, weight_decay: 0.0, lr_schedule: linear}
trainer:
  mp: p=f32,c=bfloat16
  id: tiny
  num_train_steps: 5
  train_batch_size: 4
  per_device_parallelism: 2
  steps_per_eval: 2
"""


@pytest.fixture
def config(llama: Path, rows: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"model_name_or_path: {llama}\ndata: {rows}\nvalidation: 4\n{TINY}", encoding="utf-8")
    return path


def losses(run_folder: Path) -> list[tuple[int, str, float]]:
    return [
        (record["step"], key, record[key])
        for record in read_records(run_folder / "log.jsonl")
        for key in ("train/loss", "eval/loss")
        if key in record
    ]


def test_the_script_and_lodos_train_do_the_same(
    run_example: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("script", "command"):
        (tmp_path / run).mkdir()
    flags = ["--config_path", str(config), "--trainer.checkpointer.base_path", "checkpoints", "--hf_save_path", "peft"]
    flags += ["--merged_hf_save_path", "merged"]
    run_example("alpaca_lora.py", *flags, cwd=tmp_path / "script")
    monkeypatch.chdir(tmp_path / "command")
    assert main(flags) == 0

    script, command = (tmp_path / run for run in ("script", "command"))
    assert losses(script / "runs" / "tiny") == losses(command / "runs" / "tiny")
    assert len(losses(script / "runs" / "tiny")) == 5 + 3
    for folder in ("peft/tiny/step-5", "merged/tiny/step-5"):
        names = sorted(path.name for path in (command / folder).iterdir())
        assert sorted(path.name for path in (script / folder).iterdir()) == names
        for name in set(names) - {"README.md", MANIFEST}:  # the command's card knows more of the run
            assert (script / folder / name).read_bytes() == (command / folder / name).read_bytes(), name
    assert [path.name for path in (script / "checkpoints").iterdir()] == ["tiny"]
    # A fresh adapter's B is zero: one that is not was trained.
    adapter = load_file(script / "peft/tiny/step-5" / "adapter_model.safetensors")
    assert all(tensor.any() for tensor in adapter.values())


def test_lora_adds_no_token(run_example: Any, config: Path, llama: Path, tmp_path: Path) -> None:
    run_example("alpaca_lora.py", "--config_path", config, "--merged_hf_save_path", "merged", cwd=tmp_path)
    merged = tmp_path / "merged" / "tiny" / "step-5"
    shape = load_file(merged / "model.safetensors")["model.embed_tokens.weight"].shape
    assert shape == load_file(llama / "model.safetensors")["model.embed_tokens.weight"].shape
    assert (merged / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()


def test_its_settings_extend_those_of_the_full_script(example_modules: None) -> None:
    alpaca, alpaca_lora = importlib.import_module("alpaca"), importlib.import_module("alpaca_lora")
    assert issubclass(alpaca_lora.TrainArgs, alpaca.TrainArgs)


@pytest.mark.parametrize("private", [True, False])
def test_it_uploads_merged_models_without_a_place_for_them_and_as_private_as_asked(
    example_modules: None, config: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    script: Any = importlib.import_module("alpaca_lora")
    monkeypatch.chdir(tmp_path)
    flags = ["--hf_upload", "me/adapter", "--merged_hf_upload", "me/merged", "--hf_private", str(private).lower()]
    flags += ["--trainer.num_train_steps", "1", "--trainer.id", f"private-{private}".lower()]
    script.train(parse_config(script.TrainArgs, ["--config_path", str(config), *flags], prog="test"))
    assert {name: repository.private for name, repository in hub.repositories.items()} == dict.fromkeys(
        ("me/adapter", "me/merged"), private
    )
    assert "model.safetensors" in hub.repositories["me/merged"].files


def test_a_repository_that_is_refused_is_refused_before_weights_are_loaded(
    example_modules: None, config: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", None)
    for name in ("alpaca", "alpaca_lora"):
        script: Any = importlib.import_module(name)
        text = config.read_text(encoding="utf-8")
        if name == "alpaca":
            text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("lora:"))
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        flags = ["--config_path", str(tmp_path / f"{name}.yaml"), "--hf_upload", "someone/else"]
        with pytest.raises(UserError, match="hf_upload: someone/else: the hub refuses"):
            script.train(parse_config(script.TrainArgs, flags, prog="test"))
        with pytest.raises(UserError, match=r"trainer\.fsdp_axis: 'embedd' is no axis"):
            script.train(parse_config(script.TrainArgs, [*flags[:2], "--trainer.fsdp_axis", "embedd"], prog="test"))
