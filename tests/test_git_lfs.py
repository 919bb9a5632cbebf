"""A pointer of Git LFS in the place of any file of a model is named, not parsed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import read_adapter_config
from lodos.formats.safetensors import SafetensorsReader
from lodos.git_lfs import pointer_problem, refuse_pointers
from lodos.json_files import read_json

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 269060552\n"
SAYS = r"a pointer of Git LFS, and not the file \(269,060,552 bytes\).*git lfs pull"


def test_a_pointer_is_told_from_what_looks_like_one() -> None:
    assert pointer_problem(POINTER.encode())
    assert pointer_problem(POINTER.encode().splitlines()[0])  # an abridged one
    assert not pointer_problem(b"version: 1\n")
    assert not pointer_problem(b"the version https://git-lfs.github.com/spec/v1 of pointers")
    assert not pointer_problem(b"")


def test_all_pointers_are_named_at_once(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c", "none")]
    for file in files[:2]:
        file.write_text(POINTER)
    files[2].write_text("{}")
    with pytest.raises(UserError, match=r"a: a pointer.*\n.*b: a pointer[^\n]*$"):
        refuse_pointers(*files)
    refuse_pointers(*files[2:])


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "chat_template.jinja"]
)
def test_a_model_of_which_a_file_is_a_pointer(tmp_path: Path, make_model: Any, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(make_model()[0], folder)
    (folder / name).write_text(POINTER)
    with pytest.raises(UserError, match=rf"{name}: {SAYS}"):
        _read(folder)


def _read(folder: Path) -> None:
    assert HFCheckpointConverter.from_hf(str(folder)).tokenizer
    SafetensorsReader(folder)


def test_an_adapter_and_any_json_that_are_pointers(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text(POINTER)
    with pytest.raises(UserError, match=SAYS):
        read_adapter_config(tmp_path)
    with pytest.raises(UserError, match=SAYS):
        SafetensorsReader(tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=SAYS):
        read_json(tmp_path / "adapter_config.json")
