"""From a config.json to the decoder it describes, by its `model_type`."""

from collections.abc import Mapping
from typing import Any

from lodos.errors import UserError
from lodos.models import llama, mistral, qwen2, qwen3
from lodos.models.config import DecoderConfig
from lodos.models.layers import ACTIVATIONS

MODEL_TYPES = {
    "llama": llama.decoder_config,
    "mistral": mistral.decoder_config,
    "qwen2": qwen2.decoder_config,
    "qwen3": qwen3.decoder_config,
}


def check_model_type(hf_config: Mapping[str, Any]) -> None:
    """Raises a UserError that names what the model asks for and lodos cannot do."""
    model_type = hf_config.get("model_type")
    problems = []
    if model_type not in MODEL_TYPES:
        problems.append(f"model_type: {model_type!r} is not supported. Supported: {', '.join(MODEL_TYPES)}.")
    activation = hf_config.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        problems.append(f"hidden_act: {activation!r} is not supported. Supported: {', '.join(ACTIVATIONS)}.")
    if problems:
        raise UserError("\n".join(problems))


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a complete config.json (defaults filled in by transformers) describes.

    Raises:
        UserError: for a model_type, rope type or activation that is not supported.
    """
    check_model_type(hf_config)
    return MODEL_TYPES[hf_config["model_type"]](hf_config)
