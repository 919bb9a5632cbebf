"""Seven layers: a period of three, twice, and one more; or layers without positions where nothing comes again."""

_LAYERS = dict(num_hidden_layers=7, no_rope_layer_interval=3, pad_token_id=0)
CASES = {
    "NoPE": dict(**_LAYERS),
    "windows, biases": dict(**_LAYERS, use_sliding_window=True, sliding_window=5, attention_bias=True, mlp_bias=True),
    "no pattern": dict(num_hidden_layers=5, no_rope_layers=[1, 0, 0, 1, 0], tie_word_embeddings=False, pad_token_id=0),
}
REFUSED = {}
