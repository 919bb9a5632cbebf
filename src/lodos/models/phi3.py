"""`model_type: phi3`: Phi-3, Phi-3.5 mini and Phi-4: one weight for q, k and v, one for gate and up; a part of each
head is turned, by LongRoPE where the context is long."""

from collections.abc import Mapping
from typing import Any

from lodos.models.attention import FusedSelfAttention
from lodos.models.common import attention, decoder, head_dim_of, mlp, refuse_dropout, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer
from lodos.models.mlp import FusedMLP
from lodos.models.rope_parameters import rotary_config


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    refuse_dropout(hf_config, "resid_pdrop", "embd_pdrop")
    rotary = rotary_config(hf_config, head_dim_of(hf_config), partial=True)
    window = hf_config.get("sliding_window")
    self_attn = attention(hf_config, kind=FusedSelfAttention, rotary=rotary, window=window)
    layer = LayerConfig(PreNormLayer, self_attn, mlp(hf_config, kind=FusedMLP), rms_norm(hf_config))
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])
