"""From a config.json to the decoder it describes, by its `model_type`."""

import difflib
from collections.abc import Mapping
from typing import Any

from lodos.errors import UserError
from lodos.models import (
    cohere2,
    ernie4_5,
    gemma2,
    gemma3,
    gemma3_text,
    glm4,
    granite,
    hunyuan_v1_dense,
    llama,
    ministral3,
    mistral,
    mistral3,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen3,
    seed_oss,
    smollm3,
)
from lodos.models.config import DecoderConfig
from lodos.models.mlp import ACTIVATIONS

MODEL_TYPES = {
    "llama": llama.decoder_config,
    "mistral": mistral.decoder_config,
    "qwen2": qwen2.decoder_config,
    "qwen3": qwen3.decoder_config,
    "phi3": phi3.decoder_config,
    "smollm3": smollm3.decoder_config,
    "granite": granite.decoder_config,
    "olmo2": olmo2.decoder_config,
    "gemma2": gemma2.decoder_config,
    "gemma3_text": gemma3_text.decoder_config,
    "gemma3": gemma3.decoder_config,
    "glm4": glm4.decoder_config,
    "olmo3": olmo3.decoder_config,
    "ministral3": ministral3.decoder_config,
    "mistral3": mistral3.decoder_config,
    "seed_oss": seed_oss.decoder_config,
    "hunyuan_v1_dense": hunyuan_v1_dense.decoder_config,
    "ernie4_5": ernie4_5.decoder_config,
    "cohere2": cohere2.decoder_config,
}


_ENCODERS = {
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "modernbert", "mpnet",
    "nomic_bert", "roberta", "xlm-roberta",
}  # fmt: skip
_TAKES = "A decoder of text takes a file in models/ and its tests: docs/adding-a-family.md."


def check_model_type(hf_config: Mapping[str, Any]) -> None:
    """Raises a UserError that names what the model asks for and lodos cannot do."""
    model_type = hf_config.get("model_type")
    problems = []
    supported = f"Supported: {', '.join(MODEL_TYPES)}."
    if model_type is None:
        problems.append(f"model_type: config.json has none.{_of_architecture(hf_config)} {supported}")
    elif model_type not in MODEL_TYPES:
        what = _kind(hf_config)
        problems.append(
            f"model_type: {model_type!r} is not supported{what}.{_nearest(model_type)} {supported}"
            + ("" if what else f" {_TAKES}")
        )
    text_config = hf_config.get("text_config")
    text = text_config if isinstance(text_config, Mapping) and model_type in MODEL_TYPES else hf_config
    for name in ("hidden_act", "hidden_activation"):
        activation = text.get(name) or "silu"
        if activation not in ACTIVATIONS:
            problems.append(f"{name}: {activation!r} is not supported. Supported: {', '.join(ACTIVATIONS)}.")
    if problems:
        raise UserError("\n".join(problems))


def _nearest(model_type: str) -> str:
    """Those that are written most like it: the ones before or after it in a family, or what was meant."""
    near = difflib.get_close_matches(model_type, MODEL_TYPES, n=2)
    return f" Nearest: {', '.join(near)}." if near else ""


def _of_architecture(hf_config: Mapping[str, Any]) -> str:
    """What to write, where the architecture tells."""
    architectures = hf_config.get("architectures")
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    name = first.removesuffix("ForCausalLM").lower()
    return f' Its architecture is {first}: add "model_type": "{name}".' if name in MODEL_TYPES else ""


def _kind(hf_config: Mapping[str, Any]) -> str:
    """What kind of model it is, where that is why."""
    if "text_config" in hf_config or "vision_config" in hf_config:
        return ": it is a model of more than text"
    if hf_config["model_type"] in _ENCODERS:
        return ": it is an encoder, which makes vectors of texts"
    return ": it reads a text and writes another" if hf_config.get("is_encoder_decoder") else ""


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a complete config.json (defaults filled in by transformers) describes.

    Raises:
        UserError: for a model_type, rope type or activation that is not supported.
    """
    check_model_type(hf_config)
    return MODEL_TYPES[hf_config["model_type"]](hf_config)
