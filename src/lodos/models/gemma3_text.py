"""`model_type: gemma3_text`: Gemma 2 with norms over heads of q and k in place of soft caps, and positions of their own
on the layers that slide, five of six (arXiv:2503.19786)."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, by_layer_type, decoder, mlp, refuse, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.gemma2 import Gemma2Layer
from lodos.models.layers import LayerConfig
from lodos.nn.norm import OnePlusRMSNorm


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    refuse(hf_config, "use_bidirectional_attention", "attn_logit_softcapping")
    bias, norm = bool(hf_config.get("attention_bias", False)), rms_norm(hf_config, OnePlusRMSNorm)
    scale = hf_config["query_pre_attn_scalar"] ** -0.5
    layers = [
        LayerConfig(
            Gemma2Layer,
            attention(hf_config, qkv_bias=bias, o_bias=bias, scale=scale, qk_norm=norm, rotary=rotary, window=window),
            mlp(hf_config),
            norm,
        )
        for rotary, window in by_layer_type(hf_config)
    ]
    return decoder(
        hf_config,
        layers,
        embedding_multiplier=hf_config["hidden_size"] ** 0.5,
        final_logit_softcapping=hf_config.get("final_logit_softcapping"),
    )
