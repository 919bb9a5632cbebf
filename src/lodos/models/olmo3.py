"""`model_type: olmo3`: OLMo 2 with a sliding window on three of four layers, whose positions are not scaled."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, by_layer_type, decoder, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig
from lodos.models.olmo2 import PostNormLayer
from lodos.nn.norm import RoundedLastRMSNorm


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias, norm = bool(hf_config.get("attention_bias", False)), rms_norm(hf_config, RoundedLastRMSNorm)
    own: dict[str, Any] = dict(qkv_bias=bias, o_bias=bias, qk_norm=norm, qk_norm_over="heads")
    layers = [
        LayerConfig(PostNormLayer, attention(hf_config, rotary=rotary, window=window, **own), mlp(hf_config), norm)
        for rotary, window in by_layer_type(hf_config)
    ]
    return decoder(hf_config, layers)
