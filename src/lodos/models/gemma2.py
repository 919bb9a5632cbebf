"""`model_type: gemma2`: norms before and after each half, soft caps on attention and logits, and a sliding window on
every other layer (arXiv:2408.00118)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from lodos.models.attention import Attention
from lodos.models.common import attention, decoder, layer_windows, mlp, refuse, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import DecoderLayer, Half, LayerConfig
from lodos.models.mlp import GatedMLP
from lodos.nn.norm import Norm, OnePlusRMSNorm


class Gemma2Layer(DecoderLayer):
    """A norm before each half, and one after it, before it is added to its input."""

    input_layernorm: Norm
    self_attn: Attention
    post_attention_layernorm: Norm
    pre_feedforward_layernorm: Norm
    mlp: GatedMLP
    post_feedforward_layernorm: Norm

    def forward(self, x: Float[Array, "tokens embed"], self_attn: Half, mlp: Half) -> Float[Array, "tokens embed"]:
        x = x + self.post_attention_layernorm(self_attn(self.input_layernorm(x)))
        return x + self.post_feedforward_layernorm(mlp(self.pre_feedforward_layernorm(x)))


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    refuse(hf_config, "use_bidirectional_attention")
    bias = bool(hf_config.get("attention_bias", False))
    self_attn = attention(
        hf_config,
        qkv_bias=bias,
        o_bias=bias,
        scale=hf_config["query_pre_attn_scalar"] ** -0.5,
        soft_cap=hf_config.get("attn_logit_softcapping"),
    )
    layer = LayerConfig(Gemma2Layer, self_attn, mlp(hf_config), rms_norm(hf_config, OnePlusRMSNorm))
    layers = [
        dataclasses.replace(layer, self_attn=dataclasses.replace(self_attn, window=window))
        for window in layer_windows(hf_config)
    ]
    return decoder(
        hf_config,
        layers,
        embedding_multiplier=hf_config["hidden_size"] ** 0.5,
        final_logit_softcapping=hf_config.get("final_logit_softcapping"),
    )
