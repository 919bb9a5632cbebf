"""The shape of a decoder, in the words of Hugging Face's config.json."""

import dataclasses

from lodos.nn.rotary import RotaryConfig


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """What tells one pre-norm decoder with rotary positions and a gated MLP from another."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary: RotaryConfig
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over each head of q and k, before the rotation (Qwen3)."""
    sliding_windows: tuple[int | None, ...] | None = None
    """For each layer how many tokens back it sees, itself included; None for all. None for all layers alike."""
