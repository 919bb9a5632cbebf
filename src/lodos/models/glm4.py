"""`model_type: glm4`: GLM-4-0414 and GLM-Z1: norms before and after each half, one weight for gate and up, and a part
of each head turned, neighbours as pairs."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from lodos.models.attention import Attention
from lodos.models.common import attention, decoder, head_dim_of, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import DecoderLayer, Half, LayerConfig
from lodos.models.mlp import FusedMLP, GatedMLP
from lodos.models.rope_parameters import rotary_config
from lodos.nn.norm import Norm


class Glm4Layer(DecoderLayer):
    """A norm before each half, and one after it, before it is added to its input."""

    input_layernorm: Norm
    self_attn: Attention
    post_self_attn_layernorm: Norm
    post_attention_layernorm: Norm
    mlp: GatedMLP
    post_mlp_layernorm: Norm

    def forward(self, x: Float[Array, "tokens embed"], self_attn: Half, mlp: Half) -> Float[Array, "tokens embed"]:
        x = x + self.post_self_attn_layernorm(self_attn(self.input_layernorm(x)))
        return x + self.post_mlp_layernorm(mlp(self.post_attention_layernorm(x)))


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    rotary = rotary_config(hf_config, head_dim_of(hf_config), partial=True, interleaved=True)
    self_attn = attention(hf_config, qkv_bias=bool(hf_config["attention_bias"]), rotary=rotary)
    layer = LayerConfig(Glm4Layer, self_attn, mlp(hf_config, kind=FusedMLP), rms_norm(hf_config))
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])
