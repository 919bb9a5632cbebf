"""`model_type: smollm3`: Llama with layers that know no positions (NoPE, arXiv:2305.19466), every fourth as a rule."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, decoder, layer_windows, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer
from lodos.models.rope_parameters import rotary_config


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias = bool(hf_config.get("attention_bias", False))
    self_attn = attention(hf_config, qkv_bias=bias, o_bias=bias)
    turned = rotary_config(hf_config, self_attn.head_dim)
    layers = [
        LayerConfig(
            PreNormLayer,
            dataclasses.replace(self_attn, rotary=turned if has_rope else None, window=window),
            mlp(hf_config, bias=bool(hf_config.get("mlp_bias", False))),
            rms_norm(hf_config),
        )
        for has_rope, window in zip(hf_config["no_rope_layers"], layer_windows(hf_config), strict=True)
    ]
    return decoder(hf_config, layers)
