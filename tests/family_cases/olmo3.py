"""Positions scaled on the one layer of four that sees all, from a length shorter than the rows."""

_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 10000.0}
_DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
_SHAPE = dict(num_hidden_layers=8, sliding_window=5, head_dim=6, pad_token_id=0, eos_token_id=1)
CASES = {
    "yarn": dict(**_SHAPE, rope_parameters={"full_attention": _YARN, "sliding_attention": _DEFAULT}),
    "biases, tied": dict(
        **_SHAPE,
        attention_bias=True,
        tie_word_embeddings=True,
        layer_types=["full_attention"] * 3 + ["sliding_attention"] * 5,
    ),
}
REFUSED = {"layer types": (dict(layer_types=["chunked_attention"] * 8), "layer_types: chunked_attention")}
