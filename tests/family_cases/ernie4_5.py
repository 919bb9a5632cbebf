"""Neighbours as pairs; biases everywhere or nowhere."""

CASES = {
    "biases": dict(head_dim=10, use_bias=True, tie_word_embeddings=False),
    "tied": dict(
        head_dim=6, num_key_value_heads=1, rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}
    ),
}
REFUSED = {}
