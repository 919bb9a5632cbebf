"""Norms after the rotation; theta stretched, or positions divided."""

_ALPHA = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 50.0, "factor": 1.0}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0, "alpha": 50.0}
CASES = {
    "alpha": dict(head_dim=10, rope_parameters=_ALPHA),
    "linear, biases, tied": dict(head_dim=6, rope_parameters=_LINEAR, attention_bias=True, tie_word_embeddings=True),
}
REFUSED = {}
