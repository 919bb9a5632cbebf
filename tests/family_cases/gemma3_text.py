"""Seven layers: two that slide and one that does not, twice, and one more; positions of their own on each kind."""

_SHAPE = dict(
    num_hidden_layers=7,
    head_dim=10,
    query_pre_attn_scalar=7,
    sliding_window=5,
    sliding_window_pattern=3,
    pad_token_id=0,
)
_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0}
_ROPE = {"full_attention": _LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}
CASES = {
    "two kinds of positions": dict(**_SHAPE, rope_parameters=_ROPE),
    "cap, biases": dict(
        **_SHAPE,
        final_logit_softcapping=4.0,
        attention_bias=True,
        tie_word_embeddings=False,
        rope_theta=70000.0,
        rope_local_base_freq=300.0,
        rope_scaling={"rope_type": "linear", "factor": 2.0},
    ),
}
REFUSED = {
    "bidirectional": (dict(use_bidirectional_attention=True), "use_bidirectional_attention: True"),
    "cap of attention": (dict(attn_logit_softcapping=5.0), "attn_logit_softcapping: 5.0"),
    "rope type": (
        dict(rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": "x"}}),
        "rope_parameters: full_attention: rope_theta: must be a number",
    ),
}
