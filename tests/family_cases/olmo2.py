"""Wide heads, for norms over all of them."""

CASES = {
    "norms after": dict(head_dim=10),
    "biases, tied": dict(attention_bias=True, tie_word_embeddings=True, num_key_value_heads=1),
}
REFUSED = {}
