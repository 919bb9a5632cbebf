"""`model_type: llama`: Llama 1, 2 and 3.x, SmolLM2, TinyLlama and many others."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, decoder, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias = bool(hf_config.get("attention_bias", False))
    layer = LayerConfig(
        PreNormLayer,
        attention(hf_config, qkv_bias=bias, o_bias=bias),
        mlp(hf_config, bias=bool(hf_config.get("mlp_bias", False))),
        rms_norm(hf_config),
    )
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])
