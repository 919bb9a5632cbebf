"""`model_type: qwen2`: Llama with biases on q, k and v, and a sliding window on some layers if asked for."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import common_config, windows_by_layer_type
from lodos.models.config import DecoderConfig


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    return common_config(hf_config, qkv_bias=True, sliding_windows=windows_by_layer_type(hf_config))
