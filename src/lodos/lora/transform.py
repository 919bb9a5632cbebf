"""Into LoRA and out of it: `loraize` wraps a model's linear layers, `merge_lora_modules` unwraps them.

Both take a model and return a new one. They know nothing of the model but the names of its linear layers.
"""

import math
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from lodos.errors import UserError
from lodos.lora.config import LoraConfig
from lodos.lora.layers import LoraLinear
from lodos.lora.targets import target_names
from lodos.nn.linear import Linear
from lodos.tree import layer_names, map_modules, named_leaves

Model = TypeVar("Model", bound=PyTree)


def loraize(model: Model, config: LoraConfig, *, key: PRNGKeyArray) -> Model:
    """`model` with the linear layers that `config` targets wrapped as `LoraLinear`. Its outputs do not change.

    Each layer of a stack gets factors of its own.

    Raises:
        UserError: when a target matches nothing, or the model has adapters already.
    """
    if lora_layers(model):
        raise UserError("loraize: the model already has LoRA layers. Merge them first with merge_lora_modules.")
    linears = named_linears(model)
    targets = set(targeted_names(model, config))
    keys = dict(zip(linears, jax.random.split(key, len(linears)), strict=True))

    def wrap(stacked_name: str, linear: Linear) -> Linear | LoraLinear:
        adapted = [name in targets for name in linears[stacked_name]]
        if not any(adapted):
            return linear
        some = None if all(adapted) else tuple(adapted)
        lora_A, lora_B = (_only(some, x) for x in _initial_factors(linear, config, keys[stacked_name]))
        return LoraLinear(linear, lora_A, lora_B, some, config.scale, config.dropout)

    return map_modules(wrap, model, is_linear)


def merge_lora_modules(model: Model) -> Model:
    """`model` with each LoRA layer replaced by the plain layer that computes the same."""
    return map_modules(lambda _, layer: layer.merged(), model, is_lora)


def targeted_names(model: PyTree, config: LoraConfig) -> list[str]:
    """The Hugging Face names of the layers that `config` targets. The model may be one of shapes without weights.

    Raises:
        UserError: when a target matches nothing.
    """
    return target_names(config, [name for names in named_linears(model).values() for name in names])


def named_linears(model: PyTree) -> dict[str, list[str]]:
    """The linear layers of a model, adapted or not: stacked name -> the Hugging Face names it stands for."""

    def names(name: str, layer: Linear | LoraLinear) -> list[str]:
        weight = layer.base_layer.weight if isinstance(layer, LoraLinear) else layer.weight
        return layer_names(name, weight.shape[0] if weight.ndim == 3 else None)

    found = named_leaves(model, lambda node: is_linear(node) or is_lora(node))
    return {name: names(name, layer) for name, layer in found.items() if is_linear(layer) or is_lora(layer)}


def lora_layers(model: PyTree) -> dict[str, LoraLinear]:
    """The LoRA layers of a model by stacked name, in tree order."""
    return {name: layer for name, layer in named_leaves(model, is_lora).items() if is_lora(layer)}


def adapted_names(model: PyTree) -> dict[str, list[tuple[int | None, str]]]:
    """For each LoRA layer by stacked name: the index and Hugging Face name of each layer that it adapts."""
    found: dict[str, list[tuple[int | None, str]]] = {}
    for stacked_name, layer in lora_layers(model).items():
        if layer.lora_A.ndim == 2:
            found[stacked_name] = [(None, stacked_name)]
            continue
        names = layer_names(stacked_name, layer.lora_A.shape[0])
        adapted = [True] * len(names) if layer.adapted is None else layer.adapted
        found[stacked_name] = [(index, name) for index, name in enumerate(names) if adapted[index]]
    return found


def lora_parameter_count(model: PyTree) -> int:
    """How many numbers an adapter of this model holds; layers of a stack that are not adapted do not count."""
    names = adapted_names(model)
    return sum(
        len(names[name]) * (layer.lora_A.shape[-1] + layer.lora_B.shape[-2]) * layer.lora_A.shape[-2]
        for name, layer in lora_layers(model).items()
    )


def with_factors(model: Model, factors: Mapping[str, tuple[Array, Array]]) -> Model:
    """`model` with the factors (A, B) of the LoRA layers named in `factors` replaced.

    Those of layers that are not adapted stay zero, whatever is given for them.

    Raises:
        ValueError: that lists the names that are no LoRA layer and the factors of another shape.
    """
    layers = lora_layers(model)
    problems = [f"{name}: no LoRA layer of this model" for name in factors if name not in layers]
    problems += [
        f"{name}.{field}: shape {factor.shape}, the layer's is {getattr(layers[name], field).shape}"
        for name, pair in factors.items()
        if name in layers
        for field, factor in zip(("lora_A", "lora_B"), pair, strict=True)
        if factor.shape != getattr(layers[name], field).shape
    ]
    if problems:
        raise ValueError("\n".join(problems))

    def replace(name: str, layer: LoraLinear) -> LoraLinear:
        lora_A, lora_B = (_only(layer.adapted, x) for x in factors.get(name, (layer.lora_A, layer.lora_B)))
        return LoraLinear(layer.base_layer, lora_A, lora_B, layer.adapted, layer.scale, layer.dropout)

    return map_modules(replace, model, is_lora)


def is_linear(node: object) -> bool:
    return isinstance(node, Linear)


def is_lora(node: object) -> bool:
    return isinstance(node, LoraLinear)


def _only(adapted: tuple[bool, ...] | None, factor: Array) -> Array:
    """The factor of a stack, zero in the layers that are not adapted."""
    return factor if adapted is None else jnp.where(jnp.asarray(adapted)[:, None, None], factor, 0.0)


def _initial_factors(linear: Linear, config: LoraConfig, key: PRNGKeyArray) -> tuple[Array, Array]:
    layers = linear.weight.shape[:-2]
    shape_A, shape_B = (*layers, config.r, linear.in_features), (*layers, linear.out_features, config.r)
    zero_A, zero_B = jnp.zeros(shape_A, jnp.float32), jnp.zeros(shape_B, jnp.float32)

    def uniform(shape: tuple[int, ...]) -> Array:
        # torch's kaiming_uniform_(a=sqrt(5)), PEFT's choice: the bound is 1 / sqrt(fan_in).
        bound = 1 / math.sqrt(shape[-1])
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    match config.init:
        case "default":
            return uniform(shape_A), zero_B
        case "gaussian":
            return jax.random.normal(key, shape_A, jnp.float32) / config.r, zero_B
        case "zero_a":
            return zero_A, uniform(shape_B)
