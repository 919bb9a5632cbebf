"""Every setting that an entry point takes is read in a run of it: none is taken and passed over."""

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lodos.commands.data import DataReportArgs, summary_of
from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.config_parsing import known_names, parse_config

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

CONDITIONAL = {"shuffle_buffer", "template_date", "trainer.num_train_steps"}
"""Read where `streaming` is on, where a template writes the day, and where there are no epochs to count steps by."""

TRAINING_ALONE = (
    *("lora", "optimizer", "trainer", "hf_", "merged_", "save_merged", "gradient_", "attn_", "z_", "scan_", "early_"),
    "initialize_",
)
"""How settings begin that `lodos data`, which takes the config of a training, has no use for."""

TINY = """
data: rows.jsonl
validation: 4
packing: true
max_tune_length: 192
lora: {r: 2, dropout: 0.1}
trainer: {id: run, num_epochs: 0.1, train_batch_size: 2, steps_per_eval: 1}
"""


def is_use(frame: FrameType | None) -> bool:
    """Neither a check of the value, nor a copy of the config, nor its being written."""
    while frame is not None and frame.f_code.co_name in ("<listcomp>", "<genexpr>", "<dictcomp>"):
        frame = frame.f_back
    assert frame is not None
    copies = ("dataclasses.py", "copy.py", "config_parsing.py", "config_help.py")
    return frame.f_code.co_name != "__post_init__" and not frame.f_code.co_filename.endswith(copies)


@contextmanager
def reads_of(cls: type, prefix: str = "") -> Iterator[set[str]]:
    """Within it, the dotted names of the settings that are used, of `cls` and of the sections in it."""
    seen: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:

        def watch(cls: type, prefix: str) -> None:
            fields: Any = dataclasses.fields(cls)
            names = {field.name for field in fields}

            def get(self: Any, name: str) -> Any:
                if name in names and is_use(sys._getframe(1)):
                    seen.add(prefix + name)
                return object.__getattribute__(self, name)

            patch.setattr(cls, "__getattribute__", get, raising=False)
            for field in fields:
                if dataclasses.is_dataclass(field.default):
                    watch(type(field.default), f"{prefix}{field.name}.")

        watch(cls, prefix)
        yield seen


@pytest.fixture
def config_file(make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, _ = make_model(max_position_embeddings=256, num_hidden_layers=1)
    rows = [f'{{"instruction": "Say {i}.", "output": "#### {i}"}}\n' for i in range(14)]
    (tmp_path / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    path = tmp_path / "my.yaml"
    path.write_text(f"model_name_or_path: {folder}\n{TINY}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


def unused(cls: type, run: Any, path: Path, *flags: str) -> set[str]:
    config = parse_config(cls, ["--config_path", str(path), *flags], prog="test")
    with reads_of(cls) as seen:
        run(config)
    sections = {name.rsplit(".", 1)[0] for name, _ in known_names(cls) if "." in name}
    return {name for name, _ in known_names(cls)} - sections - seen - CONDITIONAL


def test_lodos_train_uses_every_setting(config_file: Path) -> None:
    assert unused(TrainArgs, train, config_file, "--save_merged") == set()


def test_lodos_data_uses_every_setting_of_the_data(config_file: Path) -> None:
    found = unused(DataReportArgs, summary_of, config_file)
    assert {name for name in found if not name.startswith(TRAINING_ALONE)} <= {"html", "strict"}  # read by `main`


@pytest.mark.parametrize("script", ["alpaca", "alpaca_lora", "gsm8k_lora"])
def test_an_example_uses_every_setting(script: str, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module(script)
    if script == "alpaca":
        config_file.write_text(config_file.read_text(encoding="utf-8").replace("lora: {r: 2, dropout: 0.1}\n", ""))
    flags = ["--eval_rows", "2", "--max_new_tokens", "2"] if script == "gsm8k_lora" else []
    assert unused(module.TrainArgs, module.train, config_file, *flags) == set()
