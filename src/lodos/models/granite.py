"""`model_type: granite`: Llama with numbers that multiply embeddings, scores, both halves of a layer, and logits."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from lodos.models.attention import Attention
from lodos.models.common import attention, decoder, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import DecoderLayer, Half, LayerConfig
from lodos.models.mlp import GatedMLP
from lodos.nn.norm import Norm


class GraniteLayer(DecoderLayer):
    """A norm before each half, of which a part is added to its input."""

    input_layernorm: Norm
    self_attn: Attention
    post_attention_layernorm: Norm
    mlp: GatedMLP
    residual_multiplier: float = eqx.field(static=True)

    def forward(self, x: Float[Array, "tokens embed"], self_attn: Half, mlp: Half) -> Float[Array, "tokens embed"]:
        x = x + self.residual_multiplier * self_attn(self.input_layernorm(x))
        return x + self.residual_multiplier * mlp(self.post_attention_layernorm(x))


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias = bool(hf_config.get("attention_bias", False))
    layer = LayerConfig(
        GraniteLayer,
        attention(hf_config, qkv_bias=bias, o_bias=bias, scale=hf_config["attention_multiplier"]),
        mlp(hf_config, bias=bool(hf_config.get("mlp_bias", False))),
        rms_norm(hf_config),
        settings=(("residual_multiplier", hf_config["residual_multiplier"]),),
    )
    return decoder(
        hf_config,
        [layer] * hf_config["num_hidden_layers"],
        embedding_multiplier=hf_config["embedding_multiplier"],
        logits_multiplier=1 / hf_config["logits_scaling"],
    )
