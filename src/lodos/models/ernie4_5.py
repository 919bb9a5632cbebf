"""`model_type: ernie4_5`: Llama whose turned pairs are neighbours, with a bias on every linear layer or on none."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, decoder, head_dim_of, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer
from lodos.models.rope_parameters import rotary_config


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias = bool(hf_config.get("use_bias", False))
    rotary = rotary_config(hf_config, head_dim_of(hf_config), interleaved=True)
    layer = LayerConfig(
        PreNormLayer,
        attention(hf_config, qkv_bias=bias, o_bias=bias, rotary=rotary),
        mlp(hf_config, bias=bias),
        rms_norm(hf_config),
    )
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])
