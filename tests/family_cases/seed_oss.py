"""Biases on some and on all. Dropout, which the published config asks for, is said and not applied."""

_SHAPE = dict(head_dim=10, attention_dropout=0.0, residual_dropout=0.0)
CASES = {
    "biases": dict(**_SHAPE),
    "the other biases, tied": dict(
        **_SHAPE, attention_bias=False, attention_out_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
}
REFUSED = {}
