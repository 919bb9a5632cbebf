"""`model_type: cohere2`: Command R7B and Command A: both halves read one LayerNorm of the same input, and only the
layers that slide, three of four, know positions."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from lodos.models.attention import Attention
from lodos.models.common import attention, decoder, head_dim_of, layer_windows, mlp
from lodos.models.config import DecoderConfig
from lodos.models.layers import DecoderLayer, Half, LayerConfig
from lodos.models.mlp import GatedMLP
from lodos.models.rope_parameters import rotary_config
from lodos.nn.norm import LayerNorm, Norm, NormConfig


class Cohere2Layer(DecoderLayer):
    """Both halves of one norm, added to its input."""

    input_layernorm: Norm
    self_attn: Attention
    mlp: GatedMLP

    def forward(self, x: Float[Array, "tokens embed"], self_attn: Half, mlp: Half) -> Float[Array, "tokens embed"]:
        normed = self.input_layernorm(x)
        return x + self_attn(normed) + mlp(normed)


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias, norm = bool(hf_config.get("attention_bias", False)), NormConfig(hf_config["layer_norm_eps"], LayerNorm)
    turned = rotary_config(hf_config, head_dim_of(hf_config), interleaved=True)
    layers = [
        LayerConfig(
            Cohere2Layer,
            attention(hf_config, qkv_bias=bias, o_bias=bias, rotary=None if window is None else turned, window=window),
            mlp(hf_config),
            norm,
        )
        for window in layer_windows(hf_config)
    ]
    return decoder(hf_config, layers, logits_multiplier=hf_config["logit_scale"])
