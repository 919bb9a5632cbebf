"""`model_type: hunyuan_v1_dense`: Llama with norms over the heads of q and k after they are turned, and a theta that
`alpha` stretches."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from lodos.models.attention import Attention, AttentionConfig, separate_projections
from lodos.models.common import attention, decoder, head_dim_of, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer
from lodos.models.rope_parameters import rotary_config
from lodos.nn.linear import LinearLike
from lodos.nn.norm import Norm
from lodos.nn.products import products
from lodos.nn.rotary import RotaryConfig


class HunYuanAttention(Attention):
    """q, k and v from weights of their own, and norms by other names than elsewhere."""

    q_proj: LinearLike
    k_proj: LinearLike
    v_proj: LinearLike
    o_proj: LinearLike
    query_layernorm: Norm
    key_layernorm: Norm
    config: AttentionConfig = eqx.field(static=True)

    @staticmethod
    def init(config: AttentionConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "HunYuanAttention":
        q_norm, k_norm = config.norms(layers, dtype)
        assert q_norm is not None and k_norm is not None  # noqa: PT018
        projections = separate_projections(config, layers, dtype, key=key)
        return HunYuanAttention(**projections, query_layernorm=q_norm, key_layernorm=k_norm, config=config)

    @property
    def qk_norms(self) -> tuple[Norm, Norm]:
        return self.query_layernorm, self.key_layernorm

    def qkv(self, x: Float[Array, "tokens embed"], keys: list[PRNGKeyArray | None]) -> list[Float[Array, "tokens _"]]:
        return products((self.q_proj, self.k_proj, self.v_proj), x, keys)


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    bias, norm = bool(hf_config.get("attention_bias", False)), rms_norm(hf_config)
    self_attn = attention(
        hf_config,
        kind=HunYuanAttention,
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=norm,
        qk_norm_after_rotary=True,
        rotary=_rotary(hf_config),
    )
    layer = LayerConfig(PreNormLayer, self_attn, mlp(hf_config), norm)
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])


def _rotary(hf_config: Mapping[str, Any]) -> RotaryConfig:
    """What the files call dynamic is of one theta for all lengths where it has an `alpha`."""
    dim = head_dim_of(hf_config)
    rotary, alpha = rotary_config(hf_config, dim), (hf_config.get("rope_parameters") or {}).get("alpha")
    if rotary.rope_type != "dynamic" or not alpha:
        return rotary
    return dataclasses.replace(rotary, rope_type="default", rope_theta=rotary.rope_theta * alpha ** (dim / (dim - 2)))
