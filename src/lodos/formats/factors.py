"""An adapter as the factors of its modules, whatever file they came from and whatever file they go to.

PEFT's, MLX's and llama.cpp's files hold the same two matrices a module, in layouts of their own, and differ in how they
say what the product is multiplied by.
"""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import PyTree

from lodos.files import write_json
from lodos.formats.peft import CONFIG_NAME, WEIGHTS_NAME, load_peft_pretrained
from lodos.formats.peft_config import to_peft
from lodos.formats.peft_keys import peft_key
from lodos.formats.safetensors import SafetensorsReader
from lodos.formats.safetensors_writer import save_and_compare
from lodos.lora.config import LoraConfig
from lodos.lora.transform import adapted_names, lora_layers
from lodos.models.decoder import LmHeadModel

Number = TypeVar("Number", int, float)

EMBEDDING = "model.embed_tokens"
"""The module whose factors have an axis of tokens in place of inputs."""

_IN_LINEAR = ("lora_A.weight", "lora_B.weight")
_IN_EMBEDDING = ("lora_embedding_A", "lora_embedding_B")


@dataclasses.dataclass(frozen=True)
class Factors:
    """`scale * B A`, which is added to the weight of a module; of the embedding, its transpose is."""

    A: np.ndarray
    """[r, in], of the embedding [r, vocab]; float32."""
    B: np.ndarray
    """[out, r], of the embedding [embed, r]; float32."""
    scale: float

    @property
    def rank(self) -> int:
        return self.A.shape[0]


def factors_of(model: PyTree, config: LoraConfig) -> dict[str, Factors]:
    """The factors of a loraized model by the names of its modules."""
    layers = {name: layer.on_host() for name, layer in lora_layers(model).items()}
    found = {}
    for stacked_name, names in adapted_names(model).items():
        for index, name in names:
            A, B = layers[stacked_name].file_tensors(index).values()
            found[name] = Factors(A, B, config.scale_of(name))
    return found


def with_factors_of(
    model: LmHeadModel, factors: Mapping[str, Factors], *, base: SafetensorsReader, dropout: float = 0.0
) -> tuple[LmHeadModel, LoraConfig]:
    """`model` with these factors, checked as those of a PEFT folder are.

    Args:
        model: without adapters; it may be one of shapes without arrays.
        base: the base model's files.

    Raises:
        UserError: as `load_peft_pretrained` does.
    """
    rank, alpha = _usual({name: f.rank for name, f in factors.items()}), _usual(_alphas(factors))
    config = LoraConfig(
        r=rank,
        alpha=alpha,
        dropout=dropout,
        rank_pattern={name: f.rank for name, f in sorted(factors.items()) if f.rank != rank},
        alpha_pattern={name: found for name, found in sorted(_alphas(factors).items()) if found != alpha},
    )
    with tempfile.TemporaryDirectory() as folder:
        tensors = {}
        for name, found in factors.items():
            of_A, of_B = _IN_EMBEDDING if name == EMBEDDING else _IN_LINEAR
            tensors |= {peft_key(name, of_A): found.A, peft_key(name, of_B): found.B}
        save_and_compare(Path(folder, WEIGHTS_NAME), tensors)
        write_json(Path(folder, CONFIG_NAME), to_peft(config, sorted(factors), "base"))
        return load_peft_pretrained(model, Path(folder), base=base)


def _alphas(factors: Mapping[str, Factors]) -> dict[str, float]:
    # A scale is written with some sixteen digits, of which a product may cost the last.
    return {name: float(f"{found.scale * found.rank:.12g}") for name, found in factors.items()}


def _usual(values: Mapping[str, Number]) -> Number:
    return Counter(values.values()).most_common(1)[0][0]
