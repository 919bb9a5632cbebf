"""What each tensor of a model's files is after training.

It starts from the base model's files: what training did not touch is copied byte for byte, and an adapted weight is
summed in float32 and rounded once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from lodos import hosts
from lodos.errors import UserError
from lodos.formats.safetensors import SafetensorsReader, row_parts
from lodos.formats.safetensors_writer import TensorSource
from lodos.lora.transform import adapted_names, is_lora, lora_layers
from lodos.models.decoder import LmHeadModel
from lodos.tree import layer_names, map_modules, named_leaves

TIED_HEAD = "lm_head.weight"
EMBEDDING = "embed_tokens.weight"
"""The end of its name."""


def merged_tensors(
    model: LmHeadModel,
    reader: SafetensorsReader,
    dtype: np.dtype | None,
    rounding: "Callable[[str, float], None] | None" = None,
) -> dict[str, TensorSource]:
    """Each tensor to write by its name in the base model's files, in their order.

    What is no tensor of the model, as in files of a model of more than text, stays as it is. A tensor is read, summed
    and rounded when it is asked for, and held by nobody then.

    Args:
        model: its base may be one of shapes without arrays; it is what the files hold then.
        reader: of the base model's files.
        dtype: of the tensors; None keeps each tensor's dtype in the files.
        rounding: called for each adapted tensor that is made with its name and what rounding to its dtype takes of
            what the adapter adds: the norm of the error as a part of the norm of the addition.

    Raises:
        UserError: when a tensor is loaded that holds numbers beyond the range of its dtype, or to which an adapter adds
            what is not finite.
    """
    lookup = leaf_of_tensor(without_adapters(model))
    deltas = _deltas(model)
    names = [name for name in reader.shapes if name in lookup or model.config.is_text_part]

    def merged(name: str, out_dtype: np.dtype) -> np.ndarray:
        weight = _current_value(reader, name, lookup[name])
        delta = _finite(name, deltas[name]()) if name in deltas else None
        if delta is None and weight.dtype == out_dtype:
            return weight
        rounded = np.empty(weight.shape, out_dtype)
        error = added = 0.0
        for part in row_parts(weight.shape, np.dtype(np.float32).itemsize):
            exact = weight[part] if delta is None else weight[part].astype(np.float32) + delta[part]
            with np.errstate(over="ignore"):  # refused below, by name
                rounded[part] = exact.astype(out_dtype)
            if not np.array_equal(np.isfinite(rounded[part]), np.isfinite(exact)):
                raise UserError(
                    f"{name}: holds numbers beyond the range of {out_dtype}, which would become infinite. Give another "
                    "dtype, such as bfloat16."
                )
            if delta is not None and rounding is not None:
                error += float(np.sum(np.square(rounded[part].astype(np.float32) - exact), dtype=np.float64))
                added += float(np.sum(np.square(delta[part]), dtype=np.float64))
        if delta is not None and rounding is not None:
            rounding(name, (error / added) ** 0.5 if added else 0.0)
        return rounded

    def source(name: str) -> TensorSource:
        if name not in lookup:
            return TensorSource(reader.shapes[name], reader.dtypes[name], lambda: reader.read(name))
        out_dtype = dtype or reader.dtypes[name]
        has_row_per_token = name.endswith(EMBEDDING) or name == TIED_HEAD
        shape = (model.config.vocab_size, *reader.shapes[name][1:]) if has_row_per_token else reader.shapes[name]
        return TensorSource(shape, out_dtype, lambda: merged(name, out_dtype))

    return {reader.name_in_file[name]: source(name) for name in names}


def join_gathering(model: LmHeadModel, names: Iterable[str], called: Callable[[str], str] = lambda name: name) -> None:
    """What the other hosts do while the first one loads the `merged_tensors` of those names: each has parts of them.

    Args:
        called: what a tensor of the files is called in the model.
    """
    lookup = leaf_of_tensor(without_adapters(model))
    for name in map(called, names):
        if name in lookup and not lookup[name].is_shape:
            lookup[name].value()


@dataclasses.dataclass(frozen=True)
class ModelTensor:
    """A tensor of the files in a model: a leaf, or a layer of a stacked one."""

    leaf: Any
    index: int | None

    @property
    def is_shape(self) -> bool:
        return isinstance(self.leaf, jax.ShapeDtypeStruct)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.leaf.shape if self.index is None else self.leaf.shape[1:]

    def value(self) -> np.ndarray:
        return hosts.gathered(self.leaf, self.index)


def leaf_of_tensor(model: LmHeadModel) -> dict[str, ModelTensor]:
    """Where each tensor of the files is in a model without adapters, by its Hugging Face name."""
    found = {}
    for name, leaf in named_leaves(model).items():
        if not eqx.is_inexact_array(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct):
            continue
        for index, tensor in enumerate(layer_names(name, leaf.shape[0])):
            found[tensor] = ModelTensor(leaf, index if "*" in name else None)
    if model.lm_head is None:
        found[TIED_HEAD] = found[embedding_name(found)]
    return found


def embedding_name(names: Iterable[str]) -> str:
    """The name of the embedding among those of a model's tensors."""
    return next(name for name in names if name.endswith(EMBEDDING))


def without_adapters(model: LmHeadModel) -> LmHeadModel:
    """The base of a model, adapters left out and not merged."""
    return map_modules(lambda _, layer: layer.base_layer, model, is_lora)


def _deltas(model: LmHeadModel) -> dict[str, Callable[[], np.ndarray]]:
    """For each adapted weight: its name in the files and a way to compute what the adapter adds."""
    layers = {name: layer.on_host() for name, layer in lora_layers(model).items()}
    return {
        f"{name}.weight": functools.partial(layers[stacked_name].delta_of, index)
        for stacked_name, names in adapted_names(model).items()
        for index, name in names
    }


def _finite(name: str, delta: np.ndarray) -> np.ndarray:
    if not np.isfinite(delta).all():
        raise UserError(f"{name}: what the adapter adds to it is not finite (NaN or infinite). Nothing was written.")
    return delta


def _current_value(reader: SafetensorsReader, name: str, leaf: ModelTensor) -> np.ndarray:
    """The file's value where the model still holds it, perhaps in fewer bits; else what training made of it.

    The two are compared some rows at a time, so that only one of them is ever there whole.
    """
    if leaf.is_shape:
        return reader.read(name)
    in_model = leaf.value()
    if in_model.shape != reader.shapes[name]:
        return in_model
    parts = row_parts(in_model.shape, reader.dtypes[name].itemsize)
    if not all(np.array_equal(reader.read(name, part).astype(in_model.dtype), in_model[part]) for part in parts):
        return in_model
    if in_model.dtype == reader.dtypes[name]:
        return in_model
    del in_model
    return reader.read(name)
