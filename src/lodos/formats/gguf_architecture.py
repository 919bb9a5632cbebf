"""A model in llama.cpp's words: its architecture, the names of its tensors, and its settings.

llama.cpp turns neighbouring features by rotary positions where Hugging Face turns features half a head apart. For the
architectures in `_TURNS_NEIGHBOURS` the rows of q and k are stored in llama.cpp's order.
"""

import dataclasses
from collections.abc import Iterator

import gguf
import numpy as np

from lodos.errors import UserError
from lodos.models.config import DecoderConfig
from lodos.models.layers import LayerConfig
from lodos.nn.rotary import RotaryConfig, frequency_factors

_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""By `model_type`; what llama.cpp's `conversion/` registers for them."""
_TURNS_NEIGHBOURS = frozenset({gguf.MODEL_ARCH.LLAMA})

ROPE_FREQS = "rope_freqs.weight"
"""What llama.cpp divides the rotary frequency of each pair by."""

_ROPE_SCALING = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}


@dataclasses.dataclass(frozen=True)
class GgufArchitecture:
    """How llama.cpp calls and keeps the parts of one model."""

    arch: gguf.MODEL_ARCH
    config: DecoderConfig

    @staticmethod
    def of(model_type: str, config: DecoderConfig) -> "GgufArchitecture":
        """Of a model of this `model_type`.

        Raises:
            UserError: where llama.cpp has no such architecture, or would compute something else; it lists all reasons.
        """
        if model_type not in _ARCHITECTURES:
            raise UserError(
                f"model_type: {model_type!r} cannot be written as GGUF here; {', '.join(_ARCHITECTURES)} can. Merge "
                "it (lodos merge) and give the folder to llama.cpp's convert_hf_to_gguf.py."
            )
        if problems := list(_not_computed(config)):
            raise UserError("llama.cpp would compute something else than this model:\n  " + "\n  ".join(problems))
        return GgufArchitecture(_ARCHITECTURES[model_type], config)

    @property
    def layer(self) -> LayerConfig:
        """Any layer: in these architectures all are alike, but for how far they see."""
        return self.config.kinds[0]

    @property
    def rotary(self) -> RotaryConfig:
        return _rotary(self.config)

    @property
    def name(self) -> str:
        """`general.architecture`."""
        return gguf.MODEL_ARCH_NAMES[self.arch]

    def tensor_name(self, name: str) -> str:
        """GGUF's name of a Hugging Face tensor: `model.layers.0.mlp.up_proj.weight` is `blk.0.ffn_up.weight`."""
        module, suffix = name.rsplit(".", 1)
        found = gguf.get_tensor_name_map(self.arch, self.config.num_hidden_layers).get_name(module)
        if found is None:
            raise UserError(f"{name}: llama.cpp's architecture {self.name} has no tensor for it.")
        return f"{found}.{suffix}"

    def heads_to_reorder(self, module: str) -> int | None:
        """How many heads the rows of a module are, where llama.cpp keeps them in another order; None elsewhere."""
        heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}
        return heads.get(module.rsplit(".", 1)[-1]) if self.arch in _TURNS_NEIGHBOURS else None

    def extra_tensors(self) -> dict[str, np.ndarray]:
        """What llama.cpp keeps as a tensor and Hugging Face as settings."""
        if self.rotary.rope_type != "llama3":
            return {}
        return {ROPE_FREQS: frequency_factors(self.rotary)}

    def add_settings(self, writer: gguf.GGUFWriter) -> None:
        """Writes the architecture's settings."""
        config, rotary = self.config, self.rotary
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(rotary.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(self.layer.mlp.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_layer_norm_rms_eps(config.norm.eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(rotary.rotary_dim)
        writer.add_rope_freq_base(rotary.rope_theta)
        if rotary.rope_type in _ROPE_SCALING and rotary.factor is not None:
            writer.add_rope_scaling_type(_ROPE_SCALING[rotary.rope_type])
            writer.add_rope_scaling_factor(rotary.factor)
        if rotary.rope_type == "yarn":
            writer.add_rope_scaling_orig_ctx_len(
                rotary.original_max_position_embeddings or rotary.max_position_embeddings
            )
            writer.add_rope_scaling_yarn_beta_fast(rotary.beta_fast)
            writer.add_rope_scaling_yarn_beta_slow(rotary.beta_slow)

    def remarks(self) -> Iterator[str]:
        """Where llama.cpp differs from the model, at lengths that a user may not reach."""
        windows = [*(self.config.sliding_windows or ()), *(layer.self_attn.window for layer in self.config.kinds)]
        windows = [window for window in windows if window is not None]
        if windows and min(windows) < self.rotary.max_position_embeddings:
            yield (
                f"llama.cpp lets every layer see all earlier tokens; here some see the last {min(windows):,}. Answers "
                "may differ in texts longer than that."
            )


def _rotary(config: DecoderConfig) -> RotaryConfig:
    (rotary,) = config.rotaries
    return rotary


def _not_computed(config: DecoderConfig) -> Iterator[str]:
    rotary, act = _rotary(config), config.kinds[0].mlp.hidden_act
    if act not in ("silu", "swish"):
        yield f"hidden_act: {act!r}; it has silu."
    if rotary.rope_type not in ("default", "linear", "yarn", "llama3"):
        yield f"rope_type: {rotary.rope_type!r}; it has default, linear, yarn and llama3."
    if rotary.rope_type == "yarn" and (rotary.mscale is not None or not rotary.truncate):
        yield "rope_scaling: mscale and truncate of YaRN; it has its own rule for them."
    if rotary.rope_type == "yarn" and rotary.attention_factor is not None:
        yield f"rope_scaling: attention_factor {rotary.attention_factor}; it takes the one that follows from factor."
