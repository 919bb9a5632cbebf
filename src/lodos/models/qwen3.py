"""`model_type: qwen3`: norms on the heads of q and k, and a head_dim of its own."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, decoder, mlp, rms_norm, windows_by_layer_type
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias, norm = bool(hf_config.get("attention_bias", False)), rms_norm(hf_config)
    self_attn = attention(hf_config, qkv_bias=bias, o_bias=bias, qk_norm=norm)
    layers = [LayerConfig(PreNormLayer, self_attn, mlp(hf_config), norm)] * hf_config["num_hidden_layers"]
    return decoder(hf_config, layers, sliding_windows=windows_by_layer_type(hf_config))
