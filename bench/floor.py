"""The least work of a training step, and what share of the machine's matrix speed that is.

With frozen weights, each weight of a linear layer is multiplied twice a token: forward, and backward for the gradient
of its input. Two flops each time, so

    flops a step = 4 * (tokens * layers * (q + k + v + o + gate + up + down) + trained tokens * head)

with the number of weights for each name. Attention scores, norms, adapters, the softmax and the optimizer are not
counted: they are what a floor leaves out. (The lowest layer's inputs need no gradient; that is not counted either.)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class MatrixWork:
    """Weights of a model's linear layers."""

    layer: dict[str, tuple[int, int]]
    """Inputs and outputs of one layer's linear parts."""
    layers: int
    head: tuple[int, int]

    @staticmethod
    def of(folder: Path) -> "MatrixWork":
        """Of a Hugging Face folder of the Llama kind, from its config.json."""
        return MatrixWork.of_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))

    @staticmethod
    def of_config(config: dict[str, Any]) -> "MatrixWork":
        hidden, mlp, heads = (config[f"{name}"] for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
        head_dim = config.get("head_dim") or hidden // heads
        kv = head_dim * (config.get("num_key_value_heads") or heads)
        layer = {
            "q_proj": (hidden, head_dim * heads),
            "k_proj": (hidden, kv),
            "v_proj": (hidden, kv),
            "o_proj": (head_dim * heads, hidden),
            "gate_proj": (hidden, mlp),
            "up_proj": (hidden, mlp),
            "down_proj": (mlp, hidden),
        }
        return MatrixWork(layer, config["num_hidden_layers"], (hidden, config["vocab_size"]))

    @property
    def layer_weights(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.layer.values())

    @property
    def weights(self) -> int:
        """Of all linear layers with the head."""
        return self.layers * self.layer_weights + self.head[0] * self.head[1]

    def floor_flops(self, tokens: int, trained_tokens: int) -> int:
        """Of one step, by the formula above."""
        return 4 * (tokens * self.layers * self.layer_weights + trained_tokens * self.head[0] * self.head[1])

    def shapes(self, tokens: int) -> list[tuple[int, int, int]]:
        """The products `[tokens, inputs] x [outputs, inputs]^T` of a step, each once; the head's in part, as big as
        the MLP's."""
        distinct = sorted(set(self.layer.values()))
        head_inputs, head_outputs = self.head
        part = min(head_outputs, 4096)
        return [(tokens, inputs, outputs) for inputs, outputs in [*distinct, (head_inputs, part)]]
