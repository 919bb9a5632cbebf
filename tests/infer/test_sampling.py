"""What is drawn follows the distribution that the settings describe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.infer.sampling import Sampling, sample

PROBABILITIES = np.asarray([0.05, 0.4, 0.15, 0.3, 0.1])
DRAWS = 20_000


def _frequencies(**settings: float) -> np.ndarray:
    logits = jnp.broadcast_to(jnp.log(PROBABILITIES), (DRAWS, 5))
    drawn = sample(logits, jax.random.split(jax.random.key(0), DRAWS), Sampling(**settings))  # pyright: ignore
    return np.bincount(np.asarray(drawn), minlength=5) / DRAWS


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"temperature": 1.0}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2),
        ({"temperature": 1.0, "top_k": 2}, [0, 0.4, 0, 0.3, 0]),
        ({"temperature": 1.0, "top_k": 99}, PROBABILITIES),
        ({"temperature": 1.0, "top_p": 1.0}, PROBABILITIES),
        # The token that crosses top_p is the last one in.
        ({"temperature": 1.0, "top_p": 0.69}, [0, 0.4, 0, 0.3, 0]),
        ({"temperature": 1.0, "top_p": 0.71}, [0, 0.4, 0.15, 0.3, 0]),
        ({"temperature": 1.0, "top_p": 0.01}, [0, 1, 0, 0, 0]),
        # top_p counts what top_k left: 0.4 of 0.7 is 0.571.
        ({"temperature": 1.0, "top_k": 2, "top_p": 0.56}, [0, 1, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 2, "top_p": 0.58}, [0, 0.4, 0, 0.3, 0]),
        # And the temperature comes before: squared, 0.16 of 0.285 is 0.561.
        ({"temperature": 0.5, "top_p": 0.55}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.0, "top_k": 3}, [0, 1, 0, 0, 0]),
    ],
)
def test_frequencies_are_the_distribution(settings: dict[str, float], weights: list[float]) -> None:
    expected = np.asarray(weights) / np.sum(weights)
    frequencies = _frequencies(**settings)
    # Four standard deviations of a frequency, and exactly nothing outside the cut.
    assert np.all(np.abs(frequencies - expected) <= 4 * np.sqrt(expected * (1 - expected) / DRAWS))


def test_a_row_draws_the_same_whoever_is_beside_it() -> None:
    logits = jax.random.normal(jax.random.key(1), (6, 50))
    keys = jax.random.split(jax.random.key(2), 6)
    sampling = Sampling(1.0, top_k=20, top_p=0.9)
    together = sample(logits, keys, sampling)
    assert together.tolist() == [int(sample(logits[i : i + 1], keys[i : i + 1], sampling)[0]) for i in range(6)]


def test_bfloat16_logits_are_weighed_in_float32() -> None:
    """Cumulated in bfloat16, 4,000 equal probabilities never add up to a half: 1/4096 is lost beside 1/16."""
    logits = jnp.zeros((4000, 4096), jnp.bfloat16)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(sample(logits, keys, Sampling(1.0, top_p=0.5)))
    assert drawn.max() < 2049
    assert drawn.max() > 1900


def test_settings_out_of_range_are_listed_together() -> None:
    with pytest.raises(UserError, match=r"(?s)temperature: -1.*top_k: 0.*top_p: 1.5"):
        Sampling(-1.0, top_k=0, top_p=1.5)
    with pytest.raises(UserError, match="temperature: nan"):
        Sampling(float("nan"))
