"""`model_type: ministral3`: Mistral whose queries grow with their position, as Llama 4's do, from the original length
on."""

from collections.abc import Mapping
from typing import Any

from lodos.errors import UserError
from lodos.models.attention import QueryGrowth
from lodos.models.common import attention, decoder, mlp, rms_norm
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig, PreNormLayer


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    rope = hf_config.get("rope_parameters") or {}
    needed = ("llama_4_scaling_beta", "original_max_position_embeddings")
    if missing := [name for name in needed if rope.get(name) is None]:
        raise UserError(f"rope_parameters: ministral3 needs {' and '.join(missing)}.")
    self_attn = attention(
        hf_config,
        window=hf_config.get("sliding_window"),
        query_growth=QueryGrowth(*(rope[name] for name in needed)),
    )
    layer = LayerConfig(PreNormLayer, self_attn, mlp(hf_config), rms_norm(hf_config))
    return decoder(hf_config, [layer] * hf_config["num_hidden_layers"])
