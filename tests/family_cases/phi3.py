"""Heads of 12 of which 6, 8 or all features are turned."""

_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [2.0, 3.5, 6.0],
}
_SHAPE = dict(hidden_size=48, num_attention_heads=4, pad_token_id=0)
CASES = {
    "partial": {
        **_SHAPE,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.67},
    },
    "longrope": {
        **_SHAPE,
        "original_max_position_embeddings": 8,
        "max_position_embeddings": 64,
        "rope_parameters": _LONGROPE,
    },
    "window, tied": {**_SHAPE, "sliding_window": 5, "tie_word_embeddings": True},
}
REFUSED = {
    "dropout of residuals": (dict(**_SHAPE, resid_pdrop=0.1), "resid_pdrop: 0.1"),
    "dropout of embeddings": (dict(**_SHAPE, embd_pdrop=0.1), "embd_pdrop: 0.1"),
}
