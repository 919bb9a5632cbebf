"""What the config.json of many a model_type says in the same words."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lodos.errors import UserError
from lodos.models.attention import Attention, AttentionConfig, SelfAttention
from lodos.models.config import DecoderConfig, stacks_of
from lodos.models.layers import LayerConfig
from lodos.models.mlp import MLP, GatedMLP, MLPConfig
from lodos.models.rope_parameters import rotary_config
from lodos.nn.norm import NormConfig, RMSNorm
from lodos.nn.rotary import RotaryConfig

logger = logging.getLogger(__name__)
_LAYER_TYPES = {"full_attention", "sliding_attention"}


def decoder(hf_config: Mapping[str, Any], layers: Sequence[LayerConfig], **own: Any) -> DecoderConfig:
    """The decoder of these layers, with the fields in `own` as the model_type decides them."""
    say_dropout(hf_config, "attention_dropout")
    return DecoderConfig(
        vocab_size=hf_config["vocab_size"],
        hidden_size=hf_config["hidden_size"],
        stacks=stacks_of(layers),
        norm=layers[0].norm,
        tie_word_embeddings=bool(hf_config.get("tie_word_embeddings", False)),
        **own,
    )


def text_part(
    hf_config: Mapping[str, Any], kinds: Mapping[str, Callable[[Mapping[str, Any]], DecoderConfig]]
) -> DecoderConfig:
    """The decoder of a model of more than text, by the `text_config` in its config.json.

    Args:
        kinds: the `model_type`s that its text part may be of.

    Raises:
        UserError: if it is of another.
    """
    text = hf_config["text_config"]
    if text["model_type"] not in kinds:
        raise UserError(
            f"text_config: model_type: {text['model_type']!r} is not supported in {hf_config['model_type']}. "
            f"Supported: {', '.join(kinds)}."
        )
    # transformers ties by the outer config, which published ones leave at its default, true.
    tied = all(bool(config.get("tie_word_embeddings", True)) for config in (hf_config, text))
    return dataclasses.replace(kinds[text["model_type"]](text), is_text_part=True, tie_word_embeddings=tied)


def rms_norm(hf_config: Mapping[str, Any], kind: type[RMSNorm] = RMSNorm) -> NormConfig:
    return NormConfig(hf_config["rms_norm_eps"], kind)


def head_dim_of(hf_config: Mapping[str, Any]) -> int:
    return hf_config.get("head_dim") or hf_config["hidden_size"] // hf_config["num_attention_heads"]


def attention(hf_config: Mapping[str, Any], *, kind: type[Attention] = SelfAttention, **own: Any) -> AttentionConfig:
    """The attention of a config.json; rotary positions are those of its rope settings if `own` does not say."""
    heads, head_dim = hf_config["num_attention_heads"], head_dim_of(hf_config)
    if "rotary" not in own:
        own["rotary"] = rotary_config(hf_config, head_dim)
    return AttentionConfig(
        hidden_size=hf_config["hidden_size"],
        num_attention_heads=heads,
        num_key_value_heads=hf_config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        kind=kind,
        **own,
    )


def mlp(hf_config: Mapping[str, Any], *, kind: type[GatedMLP] = MLP, bias: bool = False) -> MLPConfig:
    hidden_act = hf_config.get("hidden_activation") or hf_config["hidden_act"]  # the first is what Gemma calls it
    return MLPConfig(hf_config["hidden_size"], hf_config["intermediate_size"], hidden_act, kind, bias)


def layer_windows(hf_config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The window of each layer from `layer_types` and `sliding_window`."""
    return windows_by_layer_type(hf_config) or (None,) * hf_config["num_hidden_layers"]


def by_layer_type(hf_config: Mapping[str, Any]) -> list[tuple[RotaryConfig, int | None]]:
    """The positions and the window of each layer, from `rope_parameters` for each of the `layer_types`."""
    kinds, windows = hf_config["layer_types"], layer_windows(hf_config)
    rotaries = {
        kind: rotary_config(hf_config, head_dim_of(hf_config), layer_type=kind) for kind in dict.fromkeys(kinds)
    }
    return [(rotaries[kind], window) for kind, window in zip(kinds, windows, strict=True)]


def refuse_dropout(hf_config: Mapping[str, Any], *names: str) -> None:
    """Raises a `UserError` where the model drops hidden states in training: adapters drop their own input alone."""
    if asked := [f"{name}: {hf_config[name]}" for name in names if hf_config.get(name)]:
        raise UserError(f"{', '.join(asked)} is not implemented. Set it to 0 in config.json; lora.dropout is there.")


def refuse(hf_config: Mapping[str, Any], *names: str) -> None:
    """Raises a `UserError` where an option that is not implemented is asked for."""
    if asked := [f"{name}: {hf_config[name]}" for name in names if hf_config.get(name)]:
        raise UserError(f"{', '.join(asked)} is not implemented for model_type {hf_config['model_type']}.")


def say_dropout(hf_config: Mapping[str, Any], *names: str) -> None:
    """Says that a model drops nothing of its own here, though its config.json asks for it in training."""
    for name in names:
        if hf_config.get(name):
            said = "config.json: %s: %s is not applied: adapters drop parts of their own input alone (lora.dropout)."
            logger.warning(said, name, hf_config[name])


def windows_by_layer_type(hf_config: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """The window of each layer from `layer_types` and `sliding_window`; None if no layer slides.

    Raises:
        UserError: for a type of layer that is neither `full_attention` nor `sliding_attention`.
    """
    window = hf_config.get("sliding_window")
    layer_types = hf_config.get("layer_types") or []
    if others := sorted(set(layer_types) - _LAYER_TYPES):
        raise UserError(f"layer_types: {', '.join(others)} is not one of {', '.join(sorted(_LAYER_TYPES))}.")
    if window is None or "sliding_attention" not in layer_types:
        return None
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)
