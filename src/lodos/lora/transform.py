"""Into LoRA and out of it: `loraize` wraps a model's layers, `merge_lora_modules` unwraps them.

Both take a model and return a new one. They know nothing of the model but the names of its layers.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from lodos.errors import UserError
from lodos.lora.adapted import LoraLayer
from lodos.lora.config import LoraConfig
from lodos.lora.embedding import LoraEmbedding
from lodos.lora.layers import LoraLinear, Ranks, Scale, within_ranks
from lodos.lora.targets import target_names
from lodos.nn.embedding import Embedding
from lodos.nn.linear import Linear
from lodos.tree import layer_names, map_modules, named_leaves

Model = TypeVar("Model", bound=PyTree)


def loraize(model: Model, config: LoraConfig, *, key: PRNGKeyArray) -> Model:
    """`model` with the layers that `config` targets wrapped as `LoraLinear` and `LoraEmbedding`. Its outputs do not
    change.

    Each layer of a stack gets factors of its own.

    Raises:
        UserError: when a target or a pattern matches nothing, or the model has adapters already.
    """
    if lora_layers(model):
        raise UserError("loraize: the model already has LoRA layers. Merge them first with merge_lora_modules.")
    linears = named_linears(model)
    targets = set(targeted_names(model, config))
    keys = dict(zip(linears, jax.random.split(key, len(linears)), strict=True))

    def wrap(stacked_name: str, layer: Linear | Embedding) -> Linear | Embedding | LoraLayer:
        if isinstance(layer, Embedding):
            return wrap_embedding(stacked_name, layer)
        names = linears[stacked_name]
        if targets.isdisjoint(names):
            return layer
        r, ranks, scale = _ranks_and_scale(config, names, targets)
        A, B = within_ranks(ranks, *_initial_factors(layer, config, r, ranks, keys[stacked_name]))
        index = jnp.arange(len(names)) if isinstance(scale, tuple) else None
        return LoraLinear(layer, lora_A=A, lora_B=B, ranks=ranks, scale=scale, dropout=config.dropout, index=index)

    def wrap_embedding(name: str, layer: Embedding) -> Embedding | LoraEmbedding:
        if name not in targets:
            return layer
        own_key = jax.random.fold_in(key, len(linears))  # another than those of the linear layers
        return LoraEmbedding.init(layer, config.rank_of(name), config.scale_of(name), key=own_key)

    return map_modules(wrap, model, lambda node: is_linear(node) or is_embedding(node))


def loraized_shapes(model: Model, config: LoraConfig) -> Model:
    """What `loraize` makes of a model, or of its shapes, as shapes.

    Raises:
        UserError: as `loraize` does.
    """
    return eqx.filter_eval_shape(functools.partial(loraize, config=config, key=jax.random.key(0)), model)


def merge_lora_modules(model: Model) -> Model:
    """`model` with each LoRA layer replaced by the plain layer that computes the same."""
    return map_modules(lambda _, layer: layer.merged(), model, is_lora)


def targeted_names(model: PyTree, config: LoraConfig) -> list[str]:
    """The Hugging Face names of the layers that `config` targets. The model may be one of shapes without weights.

    Raises:
        UserError: when a target matches nothing.
    """
    linears = [name for names in named_linears(model).values() for name in names]
    return target_names(config, linears, named_embeddings(model))


def named_linears(model: PyTree) -> dict[str, list[str]]:
    """The linear layers of a model, adapted or not: stacked name -> the Hugging Face names it stands for."""

    def names(name: str, layer: Linear | LoraLinear) -> list[str]:
        weight = layer.base_layer.weight if isinstance(layer, LoraLinear) else layer.weight
        return layer_names(name, weight.shape[0] if weight.ndim == 3 else None)

    found = named_leaves(model, lambda node: is_linear(node) or is_lora(node))
    return {name: names(name, layer) for name, layer in found.items() if isinstance(layer, Linear | LoraLinear)}


def named_embeddings(model: PyTree) -> list[str]:
    """The names of a model's embeddings, adapted or not."""
    found = named_leaves(model, lambda node: is_embedding(node) or is_lora(node))
    return [name for name, layer in found.items() if is_embedding(layer) or isinstance(layer, LoraEmbedding)]


def adaptable_names(model: PyTree) -> list[str]:
    """The Hugging Face names of all layers that can be adapted, or are."""
    return [*(name for names in named_linears(model).values() for name in names), *named_embeddings(model)]


def lora_layers(model: PyTree) -> dict[str, LoraLayer]:
    """The LoRA layers of a model by stacked name, in tree order."""
    return {name: layer for name, layer in named_leaves(model, is_lora).items() if is_lora(layer)}


def adapted_names(model: PyTree) -> dict[str, list[tuple[int | None, str]]]:
    """For each LoRA layer by stacked name: the index and Hugging Face name of each layer that it adapts."""
    found: dict[str, list[tuple[int | None, str]]] = {}
    for stacked_name, layer in lora_layers(model).items():
        if layer.num_layers is None:
            found[stacked_name] = [(None, stacked_name)]
            continue
        names = enumerate(layer_names(stacked_name, layer.num_layers))
        found[stacked_name] = [(index, name) for index, name in names if layer.rank_of(index)]
    return found


def lora_parameter_count(model: PyTree) -> int:
    """How many numbers an adapter of this model holds; what is beyond the rank of a layer does not count."""
    layers = lora_layers(model)
    return sum(
        math.prod(shape)
        for stacked_name, names in adapted_names(model).items()
        for index, _ in names
        for shape in layers[stacked_name].file_shapes(index).values()
    )


def with_factors(model: Model, factors: Mapping[str, tuple[Array, Array]]) -> Model:
    """`model` with the factors (A, B) of the LoRA layers named in `factors` replaced.

    What is beyond the rank of a layer stays zero, whatever is given for it.

    Raises:
        ValueError: that lists the names that are no LoRA layer and the factors of another shape.
    """
    layers = lora_layers(model)
    problems = [f"{name}: no LoRA layer of this model" for name in factors if name not in layers]
    problems += [
        f"{name}.{field}: shape {new.shape}, the layer's is {old.shape}"
        for name, pair in factors.items()
        if name in layers
        for field, new, old in zip(layers[name].factor_names, pair, layers[name].factors, strict=True)
        if new.shape != old.shape
    ]
    if problems:
        raise ValueError("\n".join(problems))

    def replace(name: str, layer: LoraLayer) -> LoraLayer:
        return layer.with_factors(*factors.get(name, layer.factors))

    return map_modules(replace, model, is_lora)


def is_linear(node: object) -> bool:
    return isinstance(node, Linear)


def is_embedding(node: object) -> bool:
    return isinstance(node, Embedding)


def is_lora(node: object) -> bool:
    return isinstance(node, LoraLayer)


def _ranks_and_scale(config: LoraConfig, names: Sequence[str], targets: set[str]) -> tuple[int, Ranks, Scale]:
    """The largest rank of a stack's layers; the rank of each, and the scale of each, where they are not all one."""
    ranks = tuple(config.rank_of(name) if name in targets else 0 for name in names)
    scales = [config.scale_of(name) for name in names if name in targets]
    scale = scales[0] if len(set(scales)) == 1 else tuple(map(config.scale_of, names))
    return max(ranks), None if len(set(ranks)) == 1 else ranks, scale


def _initial_factors(
    linear: Linear, config: LoraConfig, r: int, ranks: Ranks, key: PRNGKeyArray
) -> tuple[Array, Array]:
    layers = linear.weight.shape[:-2]
    shape_A, shape_B = (*layers, r, linear.in_features), (*layers, linear.out_features, r)
    zero_A, zero_B = jnp.zeros(shape_A, jnp.float32), jnp.zeros(shape_B, jnp.float32)
    # Of each layer of a stack, where these are not all one; a layer without an adapter divides by anything but 0.
    layer_rank = r if ranks is None else jnp.maximum(jnp.asarray(ranks, jnp.float32), 1)[:, None, None]

    def uniform(shape: tuple[int, ...], fan_in: int | Array) -> Array:
        # torch's kaiming_uniform_(a=sqrt(5)), PEFT's choice: the bound is 1 / sqrt(fan_in).
        bound = 1 / (jnp.sqrt(fan_in) if isinstance(fan_in, jax.Array) else math.sqrt(fan_in))
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    match config.init:
        case "default":
            return uniform(shape_A, linear.in_features), zero_B
        case "gaussian":
            return jax.random.normal(key, shape_A, jnp.float32) / layer_rank, zero_B
        case "zero_a":
            return zero_A, uniform(shape_B, layer_rank)
