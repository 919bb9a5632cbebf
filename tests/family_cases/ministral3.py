"""Rows longer than twice the original length, where queries have grown twice."""

_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 7,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.8,
    "llama_4_scaling_beta": 0.3,
}
_SHAPE = dict(head_dim=10, rope_parameters=_YARN, pad_token_id=0)
CASES = {
    "grown": dict(**_SHAPE),
    "window, tied": dict(**_SHAPE, sliding_window=5, tie_word_embeddings=True, num_key_value_heads=1),
}
REFUSED = {
    "no growth": (
        dict(rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        "ministral3 needs llama_4_scaling_beta",
    ),
}
