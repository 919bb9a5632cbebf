"""Quantised weights are refused in one sentence that names the method; floats are loaded whatever config.json says.

The tensors are those that each method writes, by their names and types.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.quantised import left_over

pytest.importorskip("torch")

MakeModel = Callable[..., tuple[Path, Any]]


def as_type(kind: type, *names: str) -> Callable[[str], dict[str, np.ndarray]]:
    """For a weight, tensors in its place: a packed one of this type, and scales beside it."""

    def packed(module: str) -> dict[str, np.ndarray]:
        first, *others = names
        return {f"{module}.{first}": np.ones((4, 4), kind), **{f"{module}.{n}": np.ones(4, np.float32) for n in others}}

    return packed


def bitsandbytes(module: str) -> dict[str, np.ndarray]:
    name = f"{module}.weight"
    parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    state = {f"{name}.quant_state.bitsandbytes__nf4": np.zeros(80, np.uint8)}
    return {name: np.zeros((8, 1), np.uint8), **{f"{name}.{part}": np.ones(4, np.float32) for part in parts}, **state}


def integers(module: str) -> dict[str, np.ndarray]:
    names = ("qweight", "qzeros")
    return {**{f"{module}.{n}": np.ones((4, 4), np.int32) for n in names}, f"{module}.scales": np.ones(4, np.float16)}


MLX = as_type(np.uint32, "weight", "scales", "biases")
METHODS: dict[str, tuple[Callable[[str], dict[str, np.ndarray]], dict[str, Any], str]] = {
    "bitsandbytes": (bitsandbytes, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes to 4 bits"),
    "bitsandbytes, old": (bitsandbytes, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes to 4 bits"),
    "LLM.int8": (as_type(np.int8, "weight", "SCB"), {"quant_method": "bitsandbytes", "load_in_8bit": True}, "8 bits"),
    "GPTQ": (integers, {"quant_method": "gptq", "bits": 4}, "GPTQ to 4 bits"),
    "AWQ": (integers, {"quant_method": "awq", "bits": 4}, "AWQ to 4 bits"),
    "compressed-tensors": (
        as_type(np.int32, "weight_packed", "weight_scale"),
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "compressed-tensors",
    ),
    "MXFP4": (as_type(np.uint8, "weight_blocks"), {"quant_method": "mxfp4"}, "MXFP4"),
    "a later method": (as_type(np.int16, "codes"), {"quant_method": "aqlm"}, "aqlm"),
}


def quantised(folder: Path, packed: Callable[[str], dict[str, np.ndarray]], **config: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "proj" in name]:
        del tensors[name]
        tensors |= packed(name.removesuffix(".weight"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, **config)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        HFCheckpointConverter.from_hf(str(folder)).check_weights()
    with pytest.raises(UserError) as loading:
        HFCheckpointConverter.from_hf(str(folder)).load_pretrained()
    assert str(loading.value) == str(error.value)
    return str(error.value)


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_model()[0], tmp_path / "model"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("said", [True, False])
def test_the_method_is_named_and_what_to_give_instead(folder: Path, method: str, said: bool) -> None:
    packed, settings, named = METHODS[method]
    quantised(folder, packed, **({"quantization_config": settings} if said else {}))
    text = refusal(folder)
    assert len(text.splitlines()) == 1 or not said
    if said:
        assert f"quantised by {named}" in text or named in text
        assert "give the model that was quantised" in text
    assert len(text.splitlines()) <= 15


@pytest.mark.parametrize("named", ["quantization", "quantization_config"])
def test_mlx_is_one_line(folder: Path, named: str) -> None:
    quantised(folder, MLX, **{named: {"group_size": 64, "bits": 4}})
    text = refusal(folder)
    assert len(text.splitlines()) == 1
    assert "quantised by MLX to 4 bits: model.layers.0." in text
    assert "is U32, and so are 20 others" in text


def test_eight_bit_floats_are_refused(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    tensors = load_torch(folder / "model.safetensors")
    for name in [name for name in tensors if "proj" in name]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.ones(1, 1)
    save_torch(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "quantised by FP8: model.layers.0." in refusal(folder)
    edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert "quantised by FP8: model.layers.0." in refusal(folder)


@pytest.mark.parametrize(
    "left",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "fp8"}, "quantization": {"bits": 4}},
    ],
)
def test_float_weights_are_loaded_whatever_config_json_says(
    left: dict[str, Any], folder: Path, tokens: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM

    before = HFCheckpointConverter.from_hf(str(folder)).load_pretrained()
    edit_config(folder, **left)
    converter = HFCheckpointConverter.from_hf(str(folder))
    with caplog.at_level("INFO", "lodos"):
        converter.check_weights()
        model = converter.load_pretrained()
    said = [record.getMessage() for record in caplog.records if "loaded as they are" in record.getMessage()]
    assert len(said) == 1
    np.testing.assert_array_equal(model(tokens), before(tokens))
    # What is written from them says nothing of it any more, so that transformers loads it.
    converter.save_pretrained(model, tmp_path / "out")
    assert left_over(json.loads((tmp_path / "out" / "config.json").read_text())) is None
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_other_types_are_few_lines(folder: Path) -> None:
    quantised(folder, as_type(np.int64, "weight"))
    text = refusal(folder)
    assert len(text.splitlines()) == 7
    assert "model.layers.*.mlp.up_proj.weight: I64, not one of F64, F32, F16, BF16 (3 tensors)" in text
