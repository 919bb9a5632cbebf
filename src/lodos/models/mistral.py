"""`model_type: mistral`: Llama without biases, every layer with a sliding window if there is one."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import attention, decoder, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    self_attn = attention(hf_config, window=hf_config.get("sliding_window"))
    layer = LayerConfig(PreNormLayer, self_attn, mlp(hf_config), rms_norm(hf_config))
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])
