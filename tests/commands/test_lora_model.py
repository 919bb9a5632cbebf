"""The model as shapes is the one that is loaded."""

from typing import Any

import jax
import pytest

from lodos.commands.lora_model import load_lora_model, lora_structure
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.tree import named_leaves

KEY = jax.random.key(1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scan_layers": False, "gradient_checkpointing": "none", "attn_implementation": "plain"},
        {"lora": LoraConfig(r=2, target_modules=r".*layers\.1\..*q_proj|lm_head", dropout=0.1)},
    ],
    ids=str,
)
def test_the_shapes_are_those_of_the_loaded_model(make_model: Any, settings: dict[str, Any]) -> None:
    folder, _ = make_model("llama", tie_word_embeddings=False)
    config = TrainArgs(model_name_or_path=str(folder), data="rows.json", **settings)
    converter = HFCheckpointConverter.from_hf(str(folder))
    shapes = lora_structure(config, converter)
    loaded = load_lora_model(config, converter, key=KEY)
    assert jax.tree.structure(shapes) == jax.tree.structure(loaded)
    expected = {name: leaf.shape for name, leaf in named_leaves(loaded).items()}
    assert {name: leaf.shape for name, leaf in named_leaves(shapes).items()} == expected


def test_a_target_that_is_not_there_is_refused_without_weights(make_model: Any) -> None:
    folder, _ = make_model()
    config = TrainArgs(model_name_or_path=str(folder), data="rows.json", lora=LoraConfig(target_modules=["c_attn"]))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="c_attn"):
        lora_structure(config, HFCheckpointConverter.from_hf(str(folder)))
