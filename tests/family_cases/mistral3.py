"""Text of either kind beside a tiny tower for images, which has linear layers of the same names."""

from family_cases import ministral3

_VISION = dict(
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    head_dim=4,
    image_size=8,
    patch_size=4,
    model_type="pixtral",
)
_TOWERS = dict(vision_config=_VISION, image_token_index=3)
CASES = {
    "ministral3": dict(
        **_TOWERS,
        text_config=dict(model_type="ministral3", **ministral3.CASES["window, tied"]),
    ),
    "mistral": dict(
        **_TOWERS, text_config=dict(model_type="mistral", head_dim=10, sliding_window=5), tie_word_embeddings=False
    ),
}
REFUSED = {"another text": (dict(text_config=dict(model_type="llama")), "text_config: model_type: 'llama'")}
