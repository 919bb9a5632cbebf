"""Layers without positions between those that slide; a scale of logits."""

_SHAPE = dict(
    num_hidden_layers=7, sliding_window=5, sliding_window_pattern=3, logit_scale=0.3, pad_token_id=0, eos_token_id=1
)
CASES = {
    "tied": dict(**_SHAPE),
    "biases": dict(
        **_SHAPE,
        attention_bias=True,
        tie_word_embeddings=False,
        layer_types=["full_attention"] + ["sliding_attention"] * 6,
    ),
}
REFUSED = {}
