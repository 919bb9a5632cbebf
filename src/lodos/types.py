"""What travels between the data path, the model and the trainer."""

import equinox as eqx
from jaxtyping import Array, Float, Int


class LmExample(eqx.Module):
    """A batch for next-token prediction; numpy arrays on the host, JAX arrays on the device.

    One row may hold several examples, each a segment of its own.
    """

    tokens: Int[Array, "batch seq"]
    """What the model reads."""
    targets: Int[Array, "batch seq"]
    """The token that follows each token."""
    loss_weight: Float[Array, "batch seq"]
    """How much predicting each target counts; 0 for context and filler."""
    segment_ids: Int[Array, "batch seq"]
    """Which example a token belongs to, from 1; 0 is filler. Tokens attend within their segment only."""
    positions: Int[Array, "batch seq"]
    """The position within the example, from 0."""
