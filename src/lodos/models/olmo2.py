"""`model_type: olmo2`: norms after each half and not before it, and over all heads of q and of k at once."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from lodos.models.attention import Attention
from lodos.models.common import attention, decoder, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import DecoderLayer, Half, LayerConfig
from lodos.models.mlp import GatedMLP
from lodos.nn.norm import Norm, RoundedLastRMSNorm


class PostNormLayer(DecoderLayer):
    """A norm after each half, before it is added to its input."""

    self_attn: Attention
    post_attention_layernorm: Norm
    mlp: GatedMLP
    post_feedforward_layernorm: Norm

    def forward(self, x: Float[Array, "tokens embed"], self_attn: Half, mlp: Half) -> Float[Array, "tokens embed"]:
        x = x + self.post_attention_layernorm(self_attn(x))
        return x + self.post_feedforward_layernorm(mlp(x))


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias = bool(hf_config.get("attention_bias", False))
    norm = rms_norm(hf_config, RoundedLastRMSNorm)
    self_attn = attention(hf_config, qkv_bias=bias, o_bias=bias, qk_norm=norm, qk_norm_over="heads")
    layer = LayerConfig(PostNormLayer, self_attn, mlp(hf_config), norm)
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])
