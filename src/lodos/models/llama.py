"""`model_type: llama`: Llama 1, 2 and 3.x, SmolLM2, TinyLlama and many others."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import common_config
from lodos.models.config import DecoderConfig


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias = bool(hf_config.get("attention_bias", False))
    return common_config(hf_config, qkv_bias=bias, o_bias=bias, mlp_bias=bool(hf_config.get("mlp_bias", False)))
