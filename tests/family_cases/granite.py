"""Each number apart from one."""

_NUMBERS = dict(embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.35, attention_multiplier=0.4)
CASES = {
    "numbers": dict(**_NUMBERS),
    "biases, tied": dict(**_NUMBERS, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
}
REFUSED = {}
