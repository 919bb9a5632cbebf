"""The shape of a decoder: its sizes in the words of Hugging Face's config.json, and its layers."""

import dataclasses
from collections.abc import Sequence

from lodos.models.layers import LayerConfig
from lodos.nn.norm import NormConfig
from lodos.nn.rotary import RotaryConfig

_LONGEST_PERIOD = 16


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Layers that follow one another again and again."""

    period: tuple[LayerConfig, ...]
    repeats: int

    @property
    def num_layers(self) -> int:
        return len(self.period) * self.repeats


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """What tells one decoder from another."""

    vocab_size: int
    hidden_size: int
    stacks: tuple[StackConfig, ...]
    """All layers, from the lowest; `stacks_of` makes them."""
    norm: NormConfig
    """The last one."""
    tie_word_embeddings: bool = False
    sliding_windows: tuple[int | None, ...] | None = None
    """For each layer how many tokens back it sees, itself included; None for all. Of layers that differ in it alone:
    else each says it itself, and this is None."""
    embedding_multiplier: float | None = None
    """By which embeddings are multiplied, rounded to their dtype."""
    logits_multiplier: float | None = None
    """By which logits are multiplied."""
    final_logit_softcapping: float | None = None
    """Logits are `cap * tanh(logits / cap)`."""
    is_text_part: bool = False
    """Of a model of more than text, which calls it `model.language_model` and has weights besides."""

    @property
    def num_hidden_layers(self) -> int:
        return sum(stack.num_layers for stack in self.stacks)

    @property
    def kinds(self) -> tuple[LayerConfig, ...]:
        """The kinds of layers there are."""
        return tuple(dict.fromkeys(layer for stack in self.stacks for layer in stack.period))

    @property
    def num_attention_heads(self) -> int:
        return self.kinds[0].self_attn.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        return self.kinds[0].self_attn.num_key_value_heads

    @property
    def head_dim(self) -> int:
        return self.kinds[0].self_attn.head_dim

    @property
    def rotaries(self) -> tuple[RotaryConfig, ...]:
        """The kinds of rotary positions there are."""
        found = (layer.self_attn.rotary for layer in self.kinds)
        return tuple(dict.fromkeys(rotary for rotary in found if rotary is not None))


def stacks_of(layers: Sequence[LayerConfig]) -> tuple[StackConfig, ...]:
    """The fewest stacks with the shortest periods that are these layers, from the lowest to the highest.

    a a a a           a x 4
    a a b a a b a     (a a b) x 2, a x 1
    a b b b           a x 1, b x 3
    """
    if not layers:
        return ()
    for size in range(1, min(_LONGEST_PERIOD, len(layers) // 2) + 1):
        if all(layer == layers[index % size] for index, layer in enumerate(layers)):
            repeats = len(layers) // size
            return (StackConfig(tuple(layers[:size]), repeats), *stacks_of(layers[size * repeats :]))
    run = next((index for index, layer in enumerate(layers) if layer != layers[0]), len(layers))
    return (StackConfig((layers[0],), run), *stacks_of(layers[run:]))
