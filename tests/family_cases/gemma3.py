"""Gemma 3's text beside a tiny tower for images, which has linear layers of the same names."""

from family_cases import gemma3_text

_TOWERS = dict(
    vision_config=dict(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    ),
    mm_tokens_per_image=1,
    image_token_index=3,
)
_TEXT = gemma3_text.CASES
CASES = {
    "tied": dict(**_TOWERS, text_config=_TEXT["two kinds of positions"]),
    "untied": dict(
        **_TOWERS, text_config=_TEXT["cap, biases"] | dict(final_logit_softcapping=None), tie_word_embeddings=False
    ),
}
REFUSED = {
    "cap of logits": (dict(text_config=dict(final_logit_softcapping=4.0)), "final_logit_softcapping: 4.0"),
    "text that is refused": (
        dict(text_config=dict(model_type="gemma3_text", use_bidirectional_attention=True)),
        "use_bidirectional_attention: True",
    ),
    "a field of text": (dict(text_config=dict(head_dim=7)), "text_config: head_dim: 7 is odd"),
}
