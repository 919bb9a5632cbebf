"""`model_type: qwen2`: Llama with biases on q, k and v, and a sliding window on some layers if asked for."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, decoder, mlp, rms_norm, windows_by_layer_type
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    layer = LayerConfig(PreNormLayer, attention(hf_config, qkv_bias=True), mlp(hf_config), rms_norm(hf_config))
    layers = [layer] * hf_config["num_hidden_layers"]
    return decoder(hf_config, layers, sliding_windows=windows_by_layer_type(hf_config))
