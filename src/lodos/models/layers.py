"""A decoder layer: attention and an MLP, and how a family puts norms and sums around them.

A family's layer says it as that family's modelling file does. Its fields are the parts under Hugging Face's names:

    class PreNormLayer(DecoderLayer):
        input_layernorm: Norm
        self_attn: Attention
        post_attention_layernorm: Norm
        mlp: GatedMLP

        def forward(self, x, self_attn, mlp):
            x = x + self_attn(self.input_layernorm(x))
            return x + mlp(self.post_attention_layernorm(x))
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lodos.models.attention import Attention, AttentionConfig
from lodos.models.context import Context
from lodos.models.mlp import GatedMLP, MLPConfig
from lodos.nn.attention.attention import Window
from lodos.nn.dropout import split_keys
from lodos.nn.kv_cache import LayerCache
from lodos.nn.norm import Norm, NormConfig

Half = Callable[[Float[Array, "tokens embed"]], Float[Array, "tokens embed"]]
"""Attention or the MLP, all of it but its input decided."""


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """One layer of a decoder: its class, and its parts."""

    kind: "type[DecoderLayer]"
    self_attn: AttentionConfig
    mlp: MLPConfig
    norm: NormConfig
    """Of all norms that are fields of the class."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Other fields of the class, such as a family's numbers."""

    def init(self, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "DecoderLayer":
        """With random weights, as many as a stack of `layers` has."""
        attention_key, mlp_key = jax.random.split(key)
        parts: dict[str, Any] = {
            "self_attn": self.self_attn.init(layers, dtype, key=attention_key),
            "mlp": self.mlp.init(layers, dtype, key=mlp_key),
            **dict(self.settings),
        }
        norms = [field.name for field in dataclasses.fields(self.kind) if field.name not in parts]
        width = self.self_attn.hidden_size
        parts |= {name: self.norm.init(width, layers, dtype) for name in norms}
        return self.kind(**parts)


class DecoderLayer(eqx.Module):
    """The order of events of a layer, which a family decides in `forward`."""

    self_attn: eqx.AbstractVar[Attention]
    mlp: eqx.AbstractVar[GatedMLP]

    @abc.abstractmethod
    def forward(self, x: Float[Array, "tokens embed"], self_attn: Half, mlp: Half) -> Float[Array, "tokens embed"]:
        """The layer's output of its input `x`.

        Args:
            self_attn: the layer's own, of these tokens. It is called once, and so is `mlp`.
        """

    def __call__(
        self,
        x: Float[Array, "tokens embed"],
        context: Context,
        window: Window,
        cache: LayerCache | None,
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "tokens embed"], LayerCache | None]:
        attention_key, mlp_key = split_keys(key, 2)
        caches = [cache]

        def self_attn(x: Float[Array, "tokens embed"]) -> Float[Array, "tokens embed"]:
            attended, caches[0] = self.self_attn(x, context, window, cache, key=attention_key)
            return attended

        x = self.forward(x, self_attn, lambda x: self.mlp(x, key=mlp_key))
        return x, caches[0]


class PreNormLayer(DecoderLayer):
    """Llama's: a norm before each half, which is added to its input."""

    input_layernorm: Norm
    self_attn: Attention
    post_attention_layernorm: Norm
    mlp: GatedMLP

    def forward(self, x: Float[Array, "tokens embed"], self_attn: Half, mlp: Half) -> Float[Array, "tokens embed"]:
        x = x + self_attn(self.input_layernorm(x))
        return x + mlp(self.post_attention_layernorm(x))
