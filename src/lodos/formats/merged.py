"""What each tensor of a model's files is after training.

It starts from the base model's files: what training did not touch is copied byte for byte, and an adapted weight is
summed in float32 and rounded once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import numpy as np

from lodos.errors import UserError
from lodos.formats.safetensors import SafetensorsReader, TensorSource
from lodos.lora.transform import adapted_names, is_lora, lora_layers
from lodos.models.decoder import LmHeadModel
from lodos.tree import layer_names, map_modules, named_leaves

TIED_HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def merged_tensors(model: LmHeadModel, reader: SafetensorsReader, dtype: np.dtype | None) -> dict[str, TensorSource]:
    """Each tensor to write, in the order of the base model's files.

    Args:
        reader: of the base model's files.
        dtype: of the tensors; None keeps each tensor's dtype in the files.

    Raises:
        UserError: when a tensor is loaded that holds numbers beyond the range of its dtype.
    """
    base = map_modules(lambda _, layer: layer.base_layer, model, is_lora)
    lookup = dict(_leaf_of_tensor(base))
    deltas = _deltas(model)
    names = [name for name in reader.shapes if name in lookup]

    def merged(name: str, out_dtype: np.dtype) -> np.ndarray:
        weight = _current_value(reader.read(name), lookup[name]())
        if name in deltas:
            weight = weight.astype(np.float32) + deltas[name]()
        with np.errstate(over="ignore"):  # refused below, by name
            rounded = weight.astype(out_dtype)
        if not np.array_equal(np.isfinite(rounded), np.isfinite(weight)):
            raise UserError(
                f"{name}: holds numbers beyond the range of {out_dtype}, which would become infinite. Give another "
                "dtype, such as bfloat16."
            )
        return rounded

    def source(name: str) -> TensorSource:
        out_dtype = dtype or reader.dtypes[name]
        has_row_per_token = name in (EMBEDDING, TIED_HEAD)
        shape = (model.config.vocab_size, *reader.shapes[name][1:]) if has_row_per_token else reader.shapes[name]
        return TensorSource(shape, out_dtype, lambda: merged(name, out_dtype))

    return {name: source(name) for name in names}


def _leaf_of_tensor(model: LmHeadModel) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Each tensor's Hugging Face name and a way to fetch its present value."""
    for name, leaf in named_leaves(model).items():
        if not eqx.is_inexact_array(leaf):
            continue
        for index, tensor in enumerate(layer_names(name, leaf.shape[0])):
            if "*" in name:
                yield tensor, lambda leaf=leaf, index=index: np.asarray(leaf[index])
            else:
                yield tensor, lambda leaf=leaf: np.asarray(leaf)
                if name == EMBEDDING and model.lm_head is None:
                    yield TIED_HEAD, lambda leaf=leaf: np.asarray(leaf)


def _deltas(model: LmHeadModel) -> dict[str, Callable[[], np.ndarray]]:
    """For each adapted weight: its name in the files and a way to compute what the adapter adds."""
    deltas = {}
    layers = lora_layers(model)
    for stacked_name, names in adapted_names(model).items():
        layer = layers[stacked_name]
        for index, name in names:

            def delta(layer: Any = layer, index: int | None = index) -> np.ndarray:
                A, B = (np.asarray(x if index is None else x[index], np.float32) for x in (layer.lora_A, layer.lora_B))
                return np.float32(layer.scale) * (B @ A)

            deltas[f"{name}.weight"] = delta
    return deltas


def _current_value(in_file: np.ndarray, in_model: np.ndarray) -> np.ndarray:
    """The file's value where the model still holds it, perhaps in fewer bits; else what training made of it."""
    unchanged = np.array_equal(in_file.astype(in_model.dtype), in_model)
    return in_file if unchanged else in_model
