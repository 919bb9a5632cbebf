"""The chunked loss is the plain one, in value and gradient, whatever the chunk."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.nn.cross_entropy import WeightedLoss, next_token_loss

TOKENS, EMBED, VOCAB = 13, 6, 11
CHUNKS = [1, 2, 5, 6, 12, 13, 14]


def plain_head(weight: Any) -> Any:
    return lambda hidden, _: hidden @ weight.T


def make_case(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """hidden, head weight, targets, weights; some tokens do not count and no two count alike."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(TOKENS, EMBED)).astype(np.float32) * scale
    weights = np.where(rng.random(TOKENS) < 0.3, 0, rng.random(TOKENS)).astype(np.float32)
    assert 0 < (weights == 0).sum() < TOKENS
    return hidden, rng.normal(size=(VOCAB, EMBED)).astype(np.float32), rng.integers(0, VOCAB, TOKENS), weights


def reference(
    hidden: np.ndarray, head: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The sum of weighted losses and its gradients for hidden and head, by torch in float64."""
    torch = pytest.importorskip("torch")
    hidden_, head_ = (torch.tensor(x.astype(np.float64), requires_grad=True) for x in (hidden, head))
    losses = torch.nn.functional.cross_entropy(hidden_ @ head_.T, torch.tensor(targets), reduction="none")
    total = (losses * torch.tensor(weights.astype(np.float64))).sum()
    total.backward()
    return total.item(), hidden_.grad.numpy(), head_.grad.numpy()


def loss_and_gradients(
    hidden: Any, head: Any, targets: Any, weights: Any, *, chunk: int = 512
) -> tuple[WeightedLoss, Any, Any]:
    def total(hidden: Any, head: Any) -> Any:
        loss = next_token_loss(plain_head(head), hidden, jnp.asarray(targets), jnp.asarray(weights), chunk=chunk)
        return loss.total, loss

    (_, loss), (hidden_gradient, head_gradient) = jax.value_and_grad(total, (0, 1), has_aux=True)(hidden, head)
    return loss, hidden_gradient, head_gradient


@pytest.mark.parametrize("chunk", CHUNKS)
def test_value_and_gradients_are_the_plain_ones_for_any_chunk(chunk: int) -> None:
    hidden, head, targets, weights = make_case()
    total, hidden_gradient, head_gradient = reference(hidden, head, targets, weights)
    found = loss_and_gradients(jnp.asarray(hidden), jnp.asarray(head), targets, weights, chunk=chunk)
    assert float(found[0].total) == pytest.approx(total, rel=1e-6)
    assert float(found[0].weight) == pytest.approx(weights.sum(dtype=np.float64), rel=1e-6)
    assert float(found[0].scalar()) == pytest.approx(total / weights.sum(dtype=np.float64), rel=1e-6)
    np.testing.assert_allclose(found[1], hidden_gradient, rtol=0, atol=1e-6 * np.abs(hidden_gradient).max())
    np.testing.assert_allclose(found[2], head_gradient, rtol=0, atol=1e-6 * np.abs(head_gradient).max())


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_tokens_will_do(count: int) -> None:
    hidden, head, targets, weights = (x if x.shape[0] == VOCAB else x[:count] for x in make_case())
    weights = np.ones_like(weights)
    total, hidden_gradient, _ = reference(hidden, head, targets, weights)
    loss, found, _ = loss_and_gradients(jnp.asarray(hidden), jnp.asarray(head), targets, weights, chunk=3)
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    np.testing.assert_allclose(found, hidden_gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_head_never_sees_more_tokens_than_a_chunk(chunk: int) -> None:
    hidden, head, targets, weights = map(jnp.asarray, make_case())
    seen = []

    def recording(hidden: Any, key: Any) -> Any:
        seen.append(hidden.shape[0])
        return hidden @ head.T

    jax.eval_shape(jax.grad(lambda x: next_token_loss(recording, x, targets, weights, chunk=chunk).total), hidden)
    assert seen
    assert max(seen) <= chunk


@pytest.mark.parametrize("chunk", [4, 512])
def test_tokens_without_weight_count_for_nothing(chunk: int) -> None:
    hidden, head, targets, weights = make_case()
    changed = np.where(weights[:, None] == 0, -7.0, hidden).astype(np.float32)
    others = np.where(weights == 0, (targets + 3) % VOCAB, targets)
    one, one_gradient, _ = loss_and_gradients(jnp.asarray(hidden), jnp.asarray(head), targets, weights, chunk=chunk)
    two, _, _ = loss_and_gradients(jnp.asarray(changed), jnp.asarray(head), others, weights, chunk=chunk)
    assert float(one.total) == float(two.total)
    assert not np.any(np.asarray(one_gradient)[weights == 0])
    assert np.all(np.any(one_gradient, axis=-1) == (weights > 0))


def test_a_batch_without_weight_has_loss_zero_and_no_gradient() -> None:
    hidden, head, targets, _ = make_case()

    def mean(hidden: Any) -> Any:
        zeros = jnp.zeros(TOKENS)
        return next_token_loss(plain_head(jnp.asarray(head)), hidden, jnp.asarray(targets), zeros, chunk=4).scalar()

    loss, gradient = jax.value_and_grad(mean)(jnp.asarray(hidden))
    assert float(loss) == 0.0
    assert not np.any(gradient)  # NaN is true


@pytest.mark.parametrize("scale", [1e3, 1e10, 1e30])
def test_huge_logits_stay_finite(scale: float) -> None:
    hidden, head, targets, weights = make_case(scale)
    total, _, head_gradient = reference(hidden, head, targets, weights)
    loss, hidden_gradient, found = loss_and_gradients(jnp.asarray(hidden), jnp.asarray(head), targets, weights, chunk=5)
    assert float(loss.total) == pytest.approx(total, rel=1e-5)
    assert np.all(np.isfinite(hidden_gradient))
    np.testing.assert_allclose(found, head_gradient, rtol=0, atol=1e-5 * np.abs(head_gradient).max())


def test_bfloat16_logits_are_summed_in_float32() -> None:
    """Logits that bfloat16 holds exactly, and so many of them that it could not hold their sum."""
    rng = np.random.default_rng(0)
    hidden, head = rng.integers(-2, 3, (TOKENS, EMBED)), rng.integers(-1, 2, (1000, EMBED))
    targets, weights = rng.integers(0, 1000, TOKENS), rng.random(TOKENS).astype(np.float32)
    total, *gradients = reference(hidden, head, targets, weights)
    hidden16, head16 = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(head, jnp.bfloat16)
    loss, *found = loss_and_gradients(hidden16, head16, targets, weights, chunk=5)
    assert loss.total.dtype == jnp.float32
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    for gradient, expected in zip(found, gradients, strict=True):
        assert gradient.dtype == jnp.bfloat16
        error = np.abs(np.asarray(gradient).astype(np.float64) - expected).max()
        assert error < 0.01 * np.abs(expected).max()


def test_sums_add_up_over_batches_as_means_do_not() -> None:
    hidden, head, targets, weights = map(jnp.asarray, make_case())
    whole = next_token_loss(plain_head(head), hidden, targets, weights)
    parts = (slice(4), slice(4, None))
    one, two = (next_token_loss(plain_head(head), hidden[s], targets[s], weights[s]) for s in parts)
    together = jax.tree.map(jnp.add, one, two)
    assert float(together.scalar()) == pytest.approx(float(whole.scalar()), rel=1e-6)
    assert abs(float(one.scalar() + two.scalar()) / 2 - float(whole.scalar())) > 1e-3


def test_each_chunk_has_a_key_of_its_own() -> None:
    def noise(hidden: Any, key: Any) -> Any:
        return jax.random.normal(key, (hidden.shape[0], VOCAB))

    @jax.jit
    def loss_of(weights: Any) -> Any:
        targets = jnp.zeros(8, jnp.int32)
        return next_token_loss(noise, jnp.ones((8, EMBED)), targets, weights, chunk=1, key=jax.random.key(0)).total

    assert len({float(loss_of(weights)) for weights in jnp.eye(8)}) == 8
