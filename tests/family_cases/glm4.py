"""Heads of 12 of which 6, 4 or all features are turned."""

_SHAPE = dict(head_dim=12, pad_token_id=0, eos_token_id=1)
CASES = {
    "half": dict(**_SHAPE),
    "a third, no biases, tied": dict(
        **_SHAPE,
        attention_bias=False,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.34},
    ),
    "all, yarn": dict(
        **_SHAPE,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "partial_rotary_factor": 1.0,
        },
    ),
}
REFUSED = {}
