"""The text of a model of more than text: its names, older and newer, and what else is in the files."""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from family_cases import first_case
from lodos.errors import UserError
from lodos.formats.factors import Factors
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.mlx import save_mlx
from lodos.formats.text_part import as_pattern, called
from lodos.lora.config import LoraConfig
from lodos.models.flops import training_flops

pytest.importorskip("torch")


def older(name: str) -> str:
    name = name.replace("model.language_model.", "language_model.model.")
    return "language_model." + name if name.startswith("lm_head.") else re.sub(r"^model\.(?!language)", "", name)


def test_older_and_newer_names_are_one_model_and_are_written_as_they_were(
    make_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = make_model("gemma3", **first_case("gemma3"))
    tensors = {called(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["model.vision_tower.twice"] = tensors["model.language_model.norm.weight"]
    models = []
    for name, call in {"newer": lambda name: name, "older": older}.items():
        shutil.copytree(folder, tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        save_file({call(tensor): value for tensor, value in tensors.items()}, file, metadata={"format": "pt"})
        converter = HFCheckpointConverter.from_hf(str(tmp_path / name))
        with caplog.at_level(logging.INFO, logger="lodos"):
            models.append(converter.load_pretrained())
        converter.save_pretrained(models[-1], tmp_path / f"{name} merged")
        before, after = load_file(file), load_file(tmp_path / f"{name} merged" / "model.safetensors")
        assert list(before) == list(after)
        assert all(before[tensor].tobytes() == after[tensor].tobytes() for tensor in before)
    leaves = zip(*map(jax.tree.leaves, models), strict=True)
    assert all(np.array_equal(newer, of_older) for newer, of_older in leaves)
    towers = sum("vision_tower" in name for name in tensors)
    assert sum(f"multi_modal_projector (2), vision_tower ({towers})" in message for message in caplog.messages) == 2


def test_operations_are_those_of_text(make_model: Any) -> None:
    folder, theirs = make_model("gemma3", **first_case("gemma3"))
    counted = training_flops(HFCheckpointConverter.from_hf(str(folder)).structure(), True)
    weights = dict(theirs.named_parameters())
    matrices = [weight for name, weight in weights.items() if "language_model" in name and "_proj" in name]
    assert counted.per_token == 6 * sum(weight.numel() for weight in matrices)


@pytest.mark.parametrize(
    ("targets", "name", "selected"),
    [
        (["q_proj", "down_proj"], "model.language_model.layers.3.mlp.down_proj", True),
        (["q_proj", "down_proj"], "model.vision_tower.encoder.layers.0.self_attn.q_proj", False),
        (["q_proj"], "model.language_model.layers.3.self_attn.kq_proj", False),
        (["model.language_model.layers.1.mlp.up_proj"], "model.language_model.layers.1.mlp.up_proj", True),
        (["model.language_model.layers.1.mlp.up_proj"], "model.language_model.layers.11.mlp.up_proj", False),
        (["embed_tokens", "lm_head"], "lm_head", True),
        (["lm_head"], "model.language_model.embed_tokens", False),
    ],
)
def test_the_pattern_for_peft_means_text_alone(targets: list[str], name: str, selected: bool) -> None:
    assert (re.fullmatch(as_pattern(targets), name) is not None) == selected


def test_mlx_is_refused(tmp_path: Path) -> None:
    factors = {"model.language_model.layers.0.mlp.up_proj": Factors(np.ones((2, 3)), np.ones((4, 2)), 1.0)}
    with pytest.raises(UserError, match="mlx-lm has other names"):
        save_mlx(factors, LoraConfig(), tmp_path, model="base", num_layers=1)
