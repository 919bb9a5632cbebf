"""What each tensor of a model's files is after training.

It starts from the base model's files: what training did not touch is copied byte for byte, and an adapted weight is
summed in float32 and rounded once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from lodos.errors import UserError
from lodos.formats.safetensors import SafetensorsReader
from lodos.formats.safetensors_writer import TensorSource
from lodos.gathering import gathered, gathered_rows
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

    What is no tensor of the model, as in files of a model of more than text, stays as it is. Rows of a tensor are read,
    summed and rounded when they are asked for, and held by nobody then.

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

    lost = {name: _Rounding() for name in deltas}

    def merged(name: str, shape: tuple[int, ...], out_dtype: np.dtype, part: tuple[slice, ...]) -> np.ndarray:
        weight = _current_rows(reader, name, lookup[name], part)
        delta = _finite(name, deltas[name](*part)) if name in deltas else None
        if delta is None and weight.dtype == out_dtype:
            return weight
        exact = weight if delta is None else weight.astype(np.float32) + delta
        with np.errstate(over="ignore"):  # refused below, by name
            rounded = exact.astype(out_dtype)
        if not np.array_equal(np.isfinite(rounded), np.isfinite(exact)):
            raise UserError(
                f"{name}: holds numbers beyond the range of {out_dtype}, which would become infinite. Give another "
                "dtype, such as bfloat16."
            )
        if delta is not None and rounding is not None:
            lost[name].add(rounded, exact, delta)
            if part[0].stop == shape[0]:
                rounding(name, lost[name].relative)
                lost[name] = _Rounding()
        return rounded

    def source(name: str) -> TensorSource:
        if name not in lookup:
            return TensorSource(reader.shapes[name], reader.dtypes[name], lambda part: reader.read(name, part))
        out_dtype = dtype or reader.dtypes[name]
        has_row_per_token = name.endswith(EMBEDDING) or name == TIED_HEAD
        shape = (model.config.vocab_size, *reader.shapes[name][1:]) if has_row_per_token else reader.shapes[name]
        return TensorSource(shape, out_dtype, functools.partial(merged, name, shape, out_dtype))

    return {reader.name_in_file[name]: source(name) for name in names}


@dataclasses.dataclass
class _Rounding:
    """What rounding took of an addition so far, summed over the rows of a tensor."""

    error: float = 0.0
    added: float = 0.0

    def add(self, rounded: np.ndarray, exact: np.ndarray, delta: np.ndarray) -> None:
        self.error += float(np.sum(np.square(rounded.astype(np.float32) - exact), dtype=np.float64))
        self.added += float(np.sum(np.square(delta), dtype=np.float64))

    @property
    def relative(self) -> float:
        return (self.error / self.added) ** 0.5 if self.added else 0.0


def join_gathering(
    model: LmHeadModel,
    tensors: Mapping[str, TensorSource],
    names: Iterable[str],
    called: Callable[[str], str] = lambda name: name,
) -> None:
    """What the other hosts do while the first one writes the `merged_tensors` of those names: each has parts of them.

    Args:
        called: what a tensor of the files is called in the model.
    """
    lookup = leaf_of_tensor(without_adapters(model))
    for name in names:
        leaf = lookup.get(called(name))
        if leaf is not None and not leaf.is_shape:
            for part in tensors[name].slices():
                leaf.rows(part)


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
        return gathered(self.leaf, self.index)

    def rows(self, part: tuple[slice, ...]) -> np.ndarray:
        """Of several hosts all call it, in the same order."""
        return gathered_rows(self.leaf, self.index, part)


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


def _deltas(model: LmHeadModel) -> dict[str, Callable[[slice], np.ndarray]]:
    """For each adapted weight: its name in the files and a way to compute what the adapter adds to rows of it."""
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


def _current_rows(reader: SafetensorsReader, name: str, leaf: ModelTensor, part: tuple[slice, ...]) -> np.ndarray:
    """The file's rows where the model still holds them, perhaps in fewer bits; else what training made of them."""
    if leaf.is_shape:
        return reader.read(name, part)
    in_model = leaf.rows(part)
    if leaf.shape != reader.shapes[name]:
        return in_model
    in_file = reader.read(name, part)
    return in_file if np.array_equal(in_file.astype(in_model.dtype), in_model) else in_model
