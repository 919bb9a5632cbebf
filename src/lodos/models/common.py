"""What the config.json of every Llama-like model_type says in the same words."""

from collections.abc import Mapping
from typing import Any

from lodos.models.config import DecoderConfig
from lodos.models.rope_parameters import rotary_config


def common_config(hf_config: Mapping[str, Any], **own: Any) -> DecoderConfig:
    """The DecoderConfig of a config.json, with the fields in `own` as the model_type decides them."""
    heads = hf_config["num_attention_heads"]
    head_dim = hf_config.get("head_dim") or hf_config["hidden_size"] // heads
    return DecoderConfig(
        vocab_size=hf_config["vocab_size"],
        hidden_size=hf_config["hidden_size"],
        intermediate_size=hf_config["intermediate_size"],
        num_hidden_layers=hf_config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=hf_config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        rotary=rotary_config(hf_config, head_dim),
        hidden_act=hf_config["hidden_act"],
        rms_norm_eps=hf_config["rms_norm_eps"],
        tie_word_embeddings=bool(hf_config.get("tie_word_embeddings", False)),
        **own,
    )


def windows_by_layer_type(hf_config: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """The window of each layer from `layer_types` and `sliding_window`; None if no layer slides."""
    window = hf_config.get("sliding_window")
    layer_types = hf_config.get("layer_types") or []
    if window is None or "sliding_attention" not in layer_types:
        return None
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)
