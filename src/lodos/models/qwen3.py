"""`model_type: qwen3`: norms on the heads of q and k, and a head_dim of its own."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import common_config, windows_by_layer_type
from lodos.models.config import DecoderConfig


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias = bool(hf_config.get("attention_bias", False))
    return common_config(
        hf_config, qk_norm=True, qkv_bias=bias, o_bias=bias, sliding_windows=windows_by_layer_type(hf_config)
    )
