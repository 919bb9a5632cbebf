"""Small caps, that they bend scores and logits; a window shorter than the rows; scales apart from a head's size."""

_SHAPE = dict(num_hidden_layers=4, head_dim=10, query_pre_attn_scalar=7, sliding_window=5, pad_token_id=0)
_CAPS = dict(attn_logit_softcapping=3.0, final_logit_softcapping=4.0)
_ODD = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
CASES = {
    "caps, windows": dict(**_SHAPE, **_CAPS),
    "biases, no caps": dict(
        **_SHAPE,
        attention_bias=True,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=False,
        hidden_activation="gelu",
        layer_types=_ODD,
    ),
}
REFUSED = {
    "bidirectional": (dict(use_bidirectional_attention=True), "use_bidirectional_attention: True"),
    "activation": (dict(hidden_activation="quick_gelu"), "hidden_activation: 'quick_gelu'"),
    "layer types": (dict(layer_types=["chunked_attention"] * 4), "layer_types: chunked_attention"),
}
