"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) and the scalings of them that models use.

Position `p` turns the pair of features `(i, i + d/2)` by the angle `p * inv_freq[i]`. The variants differ in
`inv_freq` and in one factor on the result:

    default   theta^(-2i/d)
    linear    divided by `factor` (kaiokendev)
    dynamic   theta grows once a position lies beyond the original length (NTK-aware)
    yarn      long wavelengths divided, short ones kept, a ramp between (arXiv:2309.00071)
    llama3    the same idea with Llama 3.1's bounds
    longrope  a factor for each pair, one list up to the original length and one beyond (arXiv:2402.13753)

The formulas are those of transformers' `modeling_rope_utils.py`; the tables are float32 in every compute
dtype, because bfloat16 cannot tell position 257 from 256.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lodos.nn.attention.segments import segment_starts
from lodos.row_parts import own_part, whole_rows

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
    """Hugging Face's `rope_parameters`, with the lengths that some variants refer to."""

    rotary_dim: int
    """How many features of a head are turned, from the first."""
    max_position_embeddings: int
    rope_theta: float = 10000.0
    rope_type: str = "default"
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    interleaved: bool = False
    """Pairs are neighbours, `(2i, 2i+1)`, and not half of the turned features apart."""


def rotary_tables(
    positions: Int[Array, "batch seq"], segment_ids: Int[Array, "batch seq"], config: RotaryConfig
) -> tuple[Float[Array, "batch seq half"], Float[Array, "batch seq half"]]:
    """The cosines and sines for each token, float32.

    Where they depend on the length (dynamic, longrope) it is that of the token's own segment, so that no example
    changes with its neighbours; transformers takes the longest row of the batch.
    """
    lengths = _segment_lengths(whole_rows(positions), whole_rows(segment_ids))
    inv_freq, scale = _frequencies(config, own_part(lengths, positions.shape[1])[..., None])
    angles = positions[..., None].astype(jnp.float32) * inv_freq
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def apply_rotary(
    x: Float[Array, "batch seq heads head_size"],
    cos: Float[Array, "batch seq half"],
    sin: Float[Array, "batch seq half"],
    *,
    interleaved: bool = False,
) -> Float[Array, "batch seq heads head_size"]:
    """Turns the first `2 * half` features of each head; the rest pass through.

    Args:
        interleaved: pairs are neighbours.
    """
    half = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    if interleaved:
        turned, rest = jnp.split(x.astype(jnp.float32), (2 * half,), axis=-1)
        x1, x2 = turned[..., 0::2], turned[..., 1::2]
        pairs = jnp.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
        return jnp.concatenate([pairs.reshape(turned.shape), rest], axis=-1).astype(x.dtype)
    x1, x2, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest], axis=-1).astype(x.dtype)


def frequency_factors(config: RotaryConfig) -> np.ndarray:
    """What the default frequency of each pair is divided by in `llama3`, `[half]`, float32."""
    return _default(config) / _llama3(config)


def _frequencies(config: RotaryConfig, length: Int[Array, "batch seq 1"]) -> tuple[Float[Array, "*batch half"], float]:
    """`inv_freq` and the factor on cosines and sines, for tokens of segments of these lengths."""
    match config.rope_type:
        case "default":
            return jnp.asarray(_default(config)), 1.0
        case "linear":
            return jnp.asarray(_default(config) / np.float32(config.factor)), 1.0
        case "dynamic":
            return _dynamic(config, length), 1.0
        case "yarn":
            return jnp.asarray(_yarn(config)), _yarn_attention_factor(config)
        case "llama3":
            return jnp.asarray(_llama3(config)), 1.0
        case "longrope":
            return _longrope(config, length)
    raise ValueError(f"rope_type: {config.rope_type!r} is not one of {', '.join(ROPE_TYPES)}.")


def _segment_lengths(
    positions: Int[Array, "batch seq"], segment_ids: Int[Array, "batch seq"]
) -> Int[Array, "batch seq"]:
    """For each token how long its segment is."""
    rows, starts = jnp.arange(len(positions))[:, None], segment_starts(segment_ids)
    last = jnp.zeros_like(positions).at[rows, starts].max(positions)
    return last[rows, starts] + 1


def _exponents(config: RotaryConfig) -> np.ndarray:
    return np.arange(0, config.rotary_dim, 2, dtype=np.float32) / np.float32(config.rotary_dim)


def _default(config: RotaryConfig) -> np.ndarray:
    return np.float32(1.0) / np.float32(config.rope_theta) ** _exponents(config)


def _dynamic(config: RotaryConfig, length: Int[Array, "batch seq 1"]) -> Float[Array, "batch seq half"]:
    dim, longest, factor = config.rotary_dim, config.max_position_embeddings, config.factor or 1.0
    length = jnp.maximum(length, longest).astype(jnp.float32)
    theta = config.rope_theta * ((factor * length / longest) - (factor - 1)) ** (dim / (dim - 2))
    return 1.0 / theta ** _exponents(config)


def _yarn(config: RotaryConfig) -> np.ndarray:
    dim, theta = config.rotary_dim, config.rope_theta
    original = _original_length(config)

    def correction_dim(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    # A zero is none, as in transformers.
    low, high = correction_dim(config.beta_fast or 32.0), correction_dim(config.beta_slow or 1.0)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # as transformers does, so that the ramp is defined
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low), 0, 1).astype(np.float32)
    extrapolated = _default(config)
    interpolated = extrapolated / np.float32(_factor(config))
    return interpolated * ramp + extrapolated * (1 - ramp)


def _yarn_attention_factor(config: RotaryConfig) -> float:
    if config.attention_factor is not None:
        return config.attention_factor

    def mscale(multiplier: float) -> float:
        factor = _factor(config)
        return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1.0

    if config.mscale and config.mscale_all_dim:
        return mscale(config.mscale) / mscale(config.mscale_all_dim)
    return mscale(1.0)


def _llama3(config: RotaryConfig) -> np.ndarray:
    factor, low, high = config.factor, config.low_freq_factor, config.high_freq_factor
    assert factor is not None and low is not None and high is not None  # noqa: PT018
    original = _original_length(config)
    inv_freq = _default(config)
    wavelength = 2 * math.pi / inv_freq
    smooth = (original / wavelength - low) / (high - low)
    smooth = np.clip(smooth, 0, 1)  # 0: a long wavelength, divided; 1: a short one, kept
    return ((1 - smooth) * inv_freq / factor + smooth * inv_freq).astype(np.float32)


def _longrope(config: RotaryConfig, length: Int[Array, "batch seq 1"]) -> tuple[Float[Array, "batch seq half"], float]:
    original = _original_length(config)
    factor = _factor(config)
    scale = config.attention_factor
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short = _default(config) / np.asarray(config.short_factor, np.float32)
    long = _default(config) / np.asarray(config.long_factor, np.float32)
    return jnp.where(length > original, long, short), scale


def _original_length(config: RotaryConfig) -> int:
    return config.original_max_position_embeddings or config.max_position_embeddings


def _factor(config: RotaryConfig) -> float:
    return config.factor or config.max_position_embeddings / _original_length(config)
