"""A folder with a model in another form is refused by what it is, with what to give instead."""

from pathlib import Path

import pytest

from lodos.errors import UserError
from lodos.formats.foreign_folders import foreign_weights, refuse_foreign

WITHOUT_CONFIG = {
    "model_index.json": "diffusers",
    "modules.json": "sentence-transformers",
    "model-q4_k_m.gguf": "GGUF",
    "consolidated.00.pth": "Meta's own format",
    "pytorch_model.bin": "pickle",
    "lit_model.pth": "pickle",
    "model.onnx": "ONNX",
    "weights.npz": "MLX",
    "snapshots/0a1b/config.json": "snapshots",
    "model.safetensors": "without their config.json",
}
WITHOUT_WEIGHTS = {"pytorch_model.bin": "pickle", "a.gguf": "GGUF", "tf_model.h5": "TensorFlow", "m.msgpack": "Flax"}


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.mark.parametrize("name", WITHOUT_CONFIG)
def test_without_a_config_it_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        refuse_foreign(touched(tmp_path / "with a space", name))
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'with a space'}: {name} is ")
    assert WITHOUT_CONFIG[name] in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("name", ["model_index.json", "modules.json"])
def test_a_pipeline_is_one_also_beside_a_config(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=WITHOUT_CONFIG[name]):
        refuse_foreign(touched(tmp_path, name, "config.json", "model.safetensors"))


@pytest.mark.parametrize("beside", ["model.gguf", "pytorch_model.bin", "consolidated.safetensors", "model.onnx"])
def test_a_model_with_other_forms_beside_it_is_a_model(beside: str, tmp_path: Path) -> None:
    refuse_foreign(touched(tmp_path, "config.json", "model.safetensors", beside))


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_what_stands_in_place_of_safetensors_is_named(name: str, tmp_path: Path) -> None:
    said = foreign_weights(touched(tmp_path, "config.json", name))
    assert said is not None
    assert f"{name} is " in said
    assert WITHOUT_WEIGHTS[name] in said


def test_what_a_trainer_leaves_is_no_weights(tmp_path: Path) -> None:
    assert foreign_weights(touched(tmp_path, "config.json", "training_args.bin", "optimizer.pt")) is None


def test_many_files_are_not_all_listed(tmp_path: Path) -> None:
    said = foreign_weights(touched(tmp_path, *(f"pytorch_model-{i:05}-of-00030.bin" for i in range(1, 31))))
    assert said is not None
    assert "pytorch_model-00003-of-00030.bin ... is a Python pickle" in said
