"""What the fields of a config.json may hold, looked at before transformers or lodos make anything of them.

Both loop over layers and make lists of them, so that a number of layers that nobody has would never end.
"""

from collections.abc import Mapping
from typing import Any

from lodos.json_files import (
    ANYTHING,
    FLAG,
    NAMES,
    NUMBER,
    OBJECT,
    TEXT,
    Kind,
    field_problems,
    is_number,
    list_of,
    whole,
)

_LENGTH = whole(1, 2**31 - 1)
_TOKEN = whole(-1, 2**31 - 1)  # -1 stands for none in early configs
_POSITIVE = Kind("a number above 0", lambda value: is_number(value) and value > 0)

FIELDS: Mapping[str, Kind] = {
    "model_type": TEXT,
    "architectures": NAMES,
    "vocab_size": whole(1, 2**24),
    "hidden_size": whole(1, 2**20),
    "intermediate_size": whole(1, 2**22),
    "num_hidden_layers": whole(1, 10_000),
    "num_attention_heads": whole(1, 2**16),
    "num_key_value_heads": whole(1, 2**16),
    "head_dim": whole(1, 2**16),
    "hidden_act": TEXT,
    "hidden_activation": TEXT,
    "rms_norm_eps": _POSITIVE,
    "layer_norm_eps": _POSITIVE,
    "initializer_range": NUMBER,
    "attention_dropout": NUMBER,
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "attention_out_bias": FLAG,
    "use_bias": FLAG,
    "tie_word_embeddings": FLAG,
    "use_cache": FLAG,
    "use_sliding_window": FLAG,
    "sliding_window": _LENGTH,
    "max_window_layers": whole(0, 2**31 - 1),
    "layer_types": NAMES,
    "sliding_window_pattern": whole(1, 10_000),
    "no_rope_layers": list_of(whole(0, 1)),
    "no_rope_layer_interval": whole(1, 10_000),
    "resid_pdrop": NUMBER,
    "embd_pdrop": NUMBER,
    "residual_dropout": NUMBER,
    "embedding_multiplier": NUMBER,
    "attention_multiplier": _POSITIVE,
    "residual_multiplier": NUMBER,
    "logits_scaling": _POSITIVE,
    "logit_scale": _POSITIVE,
    "query_pre_attn_scalar": _POSITIVE,
    "attn_logit_softcapping": _POSITIVE,
    "final_logit_softcapping": _POSITIVE,
    "use_bidirectional_attention": FLAG,
    "max_position_embeddings": _LENGTH,
    "original_max_position_embeddings": _LENGTH,
    "partial_rotary_factor": NUMBER,
    "rope_theta": _POSITIVE,
    "rope_parameters": OBJECT,
    "rope_scaling": OBJECT,
    "bos_token_id": _TOKEN | list_of(_TOKEN),
    "eos_token_id": _TOKEN | list_of(_TOKEN),
    "pad_token_id": _TOKEN,
    "dtype": TEXT,
    "torch_dtype": TEXT,
    "auto_map": OBJECT,
    "quantization_config": OBJECT,
    "quantization": OBJECT,
    "text_config": ANYTHING,
}

_ROPE_FIELDS: Mapping[str, Kind] = {
    "rope_type": TEXT,
    "type": TEXT,
    "rope_theta": _POSITIVE,
    "factor": _POSITIVE,
    "original_max_position_embeddings": _LENGTH,
    "attention_factor": _POSITIVE,
    "beta_fast": NUMBER,
    "beta_slow": NUMBER,
    "mscale": NUMBER,
    "mscale_all_dim": NUMBER,
    "truncate": FLAG,
    "low_freq_factor": _POSITIVE,
    "high_freq_factor": _POSITIVE,
    "short_factor": list_of(_POSITIVE),
    "long_factor": list_of(_POSITIVE),
    "partial_rotary_factor": NUMBER,
    "alpha": _POSITIVE,
    "llama_4_scaling_beta": NUMBER,
    "full_attention": OBJECT,
    "sliding_attention": OBJECT,
}


def config_problems(hf_config: Any) -> list[str]:
    """What is wrong with the content of a config.json, a line for each field."""
    problems = field_problems(hf_config, FIELDS)
    if problems:
        return problems
    if isinstance(text := hf_config.get("text_config"), Mapping):
        problems += [f"text_config: {problem}" for problem in config_problems(text)]
    for name in ("rope_parameters", "rope_scaling"):
        if rope := hf_config.get(name):
            problems += [f"{name}: {problem}" for problem in field_problems(rope, _ROPE_FIELDS)]
            of_types = {kind: rope.get(kind) or {} for kind in ("full_attention", "sliding_attention")}
            problems += [
                f"{name}: {kind}: {problem}"
                for kind, own in of_types.items()
                for problem in field_problems(own, _ROPE_FIELDS)
            ]
    layers, kinds = hf_config.get("num_hidden_layers"), hf_config.get("layer_types")
    if layers is not None and kinds is not None and len(kinds) != layers:
        problems.append(f"layer_types: {len(kinds)} entries for num_hidden_layers {layers}.")
    no_rope = hf_config.get("no_rope_layers")
    if layers is not None and no_rope is not None and len(no_rope) != layers:
        problems.append(f"no_rope_layers: {len(no_rope)} entries for num_hidden_layers {layers}.")
    heads, width = hf_config.get("num_attention_heads"), hf_config.get("hidden_size")
    kv_heads, head_dim = hf_config.get("num_key_value_heads"), hf_config.get("head_dim")
    if heads and kv_heads and heads % kv_heads:
        problems.append(f"num_key_value_heads: {kv_heads} does not divide num_attention_heads {heads}.")
    if heads and width and not head_dim and (width % heads or (width // heads) % 2):
        problems.append(f"num_attention_heads: hidden_size {width} does not give {heads} heads of an even size.")
    if head_dim and head_dim % 2:
        problems.append(f"head_dim: {head_dim} is odd, and rotary positions turn pairs.")
    return problems
