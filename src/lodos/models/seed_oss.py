"""`model_type: seed_oss`: Llama with a bias on q, k and v, and one of its own on o."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, decoder, mlp, rms_norm, say_dropout
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    say_dropout(hf_config, "residual_dropout")  # 0.1 in what is published
    layer = LayerConfig(
        PreNormLayer,
        attention(hf_config, qkv_bias=bool(hf_config["attention_bias"]), o_bias=bool(hf_config["attention_out_bias"])),
        mlp(hf_config, bias=bool(hf_config["mlp_bias"])),
        rms_norm(hf_config),
    )
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])
