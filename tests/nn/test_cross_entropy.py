"""The loss of the trained tokens is the plain one, in value and all gradients, and nothing else is computed."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprs import output_sizes
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.layers import LoraLinear
from lodos.nn.cross_entropy import WeightedLoss, next_token_loss
from lodos.nn.embedding import Embedding, TiedHead
from lodos.nn.linear import Linear
from lodos.tree import combine, partition

TOKENS, EMBED, VOCAB = 13, 6, 11
# One chunk size or two, larger and smaller than the ten tokens with weight, divisors of their number and not.
CHUNKS = [(1,), (3,), (5,), (12,), (512, 128), (4, 1), (3, 2), (4, 3)]
OPTIONS: list[dict[str, float]] = [{}, {"soft_cap": 2.0}, {"z_loss": 0.1}, {"soft_cap": 2.0, "z_loss": 0.1}]


def linear_head(weight: Any) -> Linear:
    return Linear(jnp.asarray(weight), None, ("vocab", "embed"))


def make_case(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """hidden, head weight, targets, weights; some tokens do not count and no two count alike."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(TOKENS, EMBED)).astype(np.float32) * scale
    weights = np.where(rng.random(TOKENS) < 0.3, 0, rng.random(TOKENS)).astype(np.float32)
    assert 0 < (weights == 0).sum() < TOKENS
    return hidden, rng.normal(size=(VOCAB, EMBED)).astype(np.float32), rng.integers(0, VOCAB, TOKENS), weights


def reference(
    hidden: Any, head: Any, targets: Any, weights: Any, *, soft_cap: float | None = None, z_loss: float = 0.0
) -> tuple[float, np.ndarray, np.ndarray]:
    """The sum of weighted losses and its gradients for hidden and head, by torch in float64."""
    torch = pytest.importorskip("torch")
    hidden_, head_ = (torch.tensor(np.asarray(x).astype(np.float64), requires_grad=True) for x in (hidden, head))
    logits = hidden_ @ head_.T
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(np.asarray(targets, np.int64)), reduction="none")
    losses = losses + z_loss * torch.logsumexp(logits, dim=-1) ** 2
    total = (losses * torch.tensor(np.asarray(weights).astype(np.float64))).sum()
    total.backward()
    return total.item(), hidden_.grad.numpy(), head_.grad.numpy()


def loss_and_gradients(
    hidden: Any, head: eqx.Module, targets: Any, weights: Any, *, trained: Any = True, **options: Any
) -> tuple[WeightedLoss, Any, Any]:
    """The loss, and the gradients for hidden and for what `trained` selects of the head."""
    trainable, frozen = partition(head, trained)

    @jax.jit
    def run(differentiated: Any, targets: Any, weights: Any) -> Any:
        def total(differentiated: Any) -> Any:
            hidden, trainable = differentiated
            loss = next_token_loss(combine(trainable, frozen), hidden, targets, weights, **options)
            return loss.total, loss

        (_, loss), gradients = jax.value_and_grad(total, has_aux=True)(differentiated)
        return loss, *gradients

    return run((jnp.asarray(hidden), trainable), jnp.asarray(targets), jnp.asarray(weights))


def assert_near(found: Any, expected: np.ndarray, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("chunks", CHUNKS)
def test_value_and_gradients_are_the_plain_ones_for_any_chunk(chunks: tuple[int, ...]) -> None:
    hidden, head, targets, weights = make_case()
    total, hidden_gradient, head_gradient = reference(hidden, head, targets, weights)
    loss, *found = loss_and_gradients(hidden, linear_head(head), targets, weights, chunks=chunks)
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    assert float(loss.weight) == pytest.approx(weights.sum(dtype=np.float64), rel=1e-6)
    assert float(loss.scalar()) == pytest.approx(total / weights.sum(dtype=np.float64), rel=1e-6)
    assert_near(found[0], hidden_gradient)
    assert_near(found[1].weight, head_gradient)


@pytest.mark.parametrize("trained", [True, False])
def test_logits_of_more_than_a_chunk_never_exist(trained: bool) -> None:
    """In value and gradients no array has more numbers than the chunk's logits, the weight or the hidden states."""
    tokens, embed, vocab, chunk = 64, 6, 50, 4
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((vocab, embed), (tokens, embed), (tokens,))]

    def gradients(weight: Any, hidden: Any, weights: Any) -> Any:
        def total(weight: Any, hidden: Any) -> Any:
            return next_token_loss(
                linear_head(weight), hidden, jnp.zeros(tokens, jnp.int32), weights, chunks=(chunk, 1)
            ).total

        return jax.value_and_grad(total, (0, 1) if trained else 1)(weight, hidden)

    assert chunk * vocab in (sizes := output_sizes(gradients, *shapes))
    assert max(sizes) <= max(chunk * vocab, vocab * embed, (tokens + chunk) * embed)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_soft_cap_and_z_loss_are_in_value_and_gradients(options: dict[str, float]) -> None:
    hidden, head, targets, weights = make_case()
    total, hidden_gradient, head_gradient = reference(hidden, head, targets, weights, **options)
    loss, *found = loss_and_gradients(hidden, linear_head(head), targets, weights, chunks=(4,), **options)
    assert float(loss.total) == pytest.approx(total, rel=2e-6)
    assert_near(found[0], hidden_gradient)
    assert_near(found[1].weight, head_gradient)
    # The gradient that is scaled after a frozen head.
    loss, *frozen = loss_and_gradients(
        hidden, linear_head(head), targets, weights, trained=False, chunks=(4,), **options
    )
    assert float(loss.total) == pytest.approx(total, rel=2e-6)
    assert_near(frozen[0], hidden_gradient)
    assert not jax.tree.leaves(frozen[1])


def test_the_hidden_states_may_be_what_is_frozen() -> None:
    hidden, head, targets, weights = make_case()
    total, _, head_gradient = reference(hidden, head, targets, weights)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def run(head: Any) -> Any:
        return next_token_loss(head, jnp.asarray(hidden), jnp.asarray(targets), jnp.asarray(weights), chunks=(4,)).total

    value, gradient = run(linear_head(head))
    assert float(value) == pytest.approx(total, rel=1e-6)
    assert_near(gradient.weight, head_gradient)


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_with_bias_is_trained_like_any(bias: bool) -> None:
    """A bias is one more column of the weight, for a hidden state with a one in it."""
    hidden, head, targets, weights = make_case()
    offsets = np.random.default_rng(1).normal(size=(VOCAB, 1)).astype(np.float32) * bias
    ones = np.ones((TOKENS, 1), np.float32)
    total, hidden_gradient, head_gradient = reference(
        np.hstack([hidden, ones]), np.hstack([head, offsets]), targets, weights
    )
    layer = Linear(jnp.asarray(head), jnp.asarray(offsets[:, 0]) if bias else None, ("vocab", "embed"))
    loss, *found = loss_and_gradients(hidden, layer, targets, weights, chunks=(4,))
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    assert_near(found[0], hidden_gradient[:, :-1])
    if bias:
        assert_near(found[1].bias, head_gradient[:, -1])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_gradient_of_a_tied_head_reaches_the_embedding(options: dict[str, float]) -> None:
    _, head, targets, weights = make_case()
    read = np.random.default_rng(2).integers(0, VOCAB, TOKENS)
    _, hidden_gradient, expected = reference(head[read], head, targets, weights, **options)
    np.add.at(expected, read, hidden_gradient)  # what was read is the same table

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(embedding: Embedding) -> Any:
        hidden = embedding(jnp.asarray(read))
        tied = TiedHead(embedding)
        return next_token_loss(tied, hidden, jnp.asarray(targets), jnp.asarray(weights), chunks=(4,), **options).total

    assert_near(gradient(Embedding(jnp.asarray(head))).weight, expected)


def lora_head(head: np.ndarray, dropout: float = 0.0) -> LoraLinear:
    rng = np.random.default_rng(3)
    A, B = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, EMBED), (VOCAB, 2)))
    return LoraLinear(linear_head(head), A, B, None, 0.5, dropout)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_lora_head_has_the_gradients_of_its_factors(options: dict[str, float]) -> None:
    hidden, head, targets, weights = make_case()
    layer = lora_head(head)
    total, hidden_gradient, summed_gradient = reference(hidden, layer.merged().weight, targets, weights, **options)
    trained = lora_trainable_params_filter(layer)
    loss, *found = loss_and_gradients(hidden, layer, targets, weights, trained=trained, chunks=(4,), **options)
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    assert_near(found[0], hidden_gradient)
    assert_near(found[1].lora_A, layer.scale * np.asarray(layer.lora_B).T @ summed_gradient)
    assert_near(found[1].lora_B, layer.scale * summed_gradient @ np.asarray(layer.lora_A).T)
    assert len(jax.tree.leaves(found[1])) == 2


def test_with_dropout_the_factors_have_the_gradients_of_what_was_dropped() -> None:
    """JAX's own derivative of the same chunks, gone through by hand."""
    hidden, head, targets, weights = map(jnp.asarray, make_case())
    layer, chunk = lora_head(np.asarray(head), dropout=0.5), 4
    key = jax.random.split(jax.random.key(7), hidden.shape[0])
    order = np.argsort(np.asarray(weights) == 0, stable=True)
    count = int(np.sum(np.asarray(weights) != 0))
    trained = lora_trainable_params_filter(layer)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def by_hand(differentiated: Any) -> Any:
        hidden, trainable = differentiated
        total = 0.0
        for start in range(0, count, chunk):
            rows = jnp.asarray(order[start : start + chunk])
            head = combine(trainable, partition(layer, trained)[1])
            logits = head(hidden[rows], key=key[rows])
            nll = jax.nn.logsumexp(logits, axis=-1) - logits[jnp.arange(chunk), targets[rows]]
            total += jnp.sum(weights[rows] * nll)
        return total

    total, (hidden_gradient, factors) = by_hand((hidden, partition(layer, trained)[0]))
    loss, *found = loss_and_gradients(hidden, layer, targets, weights, trained=trained, chunks=(chunk,), key=key)
    assert float(loss.total) == pytest.approx(float(total), rel=1e-5)
    assert_near(found[0], np.asarray(hidden_gradient), 1e-5)
    assert_near(found[1].lora_A, np.asarray(factors.lora_A), 1e-5)
    assert_near(found[1].lora_B, np.asarray(factors.lora_B), 1e-5)
    without, *_ = loss_and_gradients(hidden, layer, targets, weights, trained=trained, chunks=(chunk,))
    assert abs(float(without.total) - float(total)) > 1e-3


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_tokens_will_do(count: int) -> None:
    hidden, head, targets, weights = (x if x.shape[0] == VOCAB else x[:count] for x in make_case())
    weights = np.ones_like(weights)
    total, hidden_gradient, _ = reference(hidden, head, targets, weights)
    loss, found, _ = loss_and_gradients(hidden, linear_head(head), targets, weights, chunks=(3,))
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    assert_near(found, hidden_gradient)


@pytest.mark.parametrize("only", [0, 6, TOKENS - 1])
def test_one_trained_token_is_enough(only: int) -> None:
    hidden, head, targets, _ = make_case()
    weights = np.eye(TOKENS, dtype=np.float32)[only]
    total, hidden_gradient, head_gradient = reference(hidden, head, targets, weights)
    loss, *found = loss_and_gradients(hidden, linear_head(head), targets, weights)
    assert float(loss.scalar()) == pytest.approx(total, rel=1e-6)
    assert_near(found[0], hidden_gradient)
    assert_near(found[1].weight, head_gradient)


class CountingHead(eqx.Module):
    """A head that notes how many rows it is given each time it runs."""

    weight: jax.Array
    note: Callable[[int], None] = eqx.field(static=True)

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        jax.debug.callback(lambda: self.note(x.shape[0]))
        return x @ self.weight.T


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (0, []),
        (1, [2]),
        (2, [2]),
        (3, [2, 2]),
        (4, [4]),
        (5, [4, 2]),
        (9, [4, 4, 2]),
        (12, [4, 4, 4]),
        (13, [4, 4, 4, 2]),
    ],
)
def test_the_head_runs_once_for_each_chunk_of_trained_tokens(
    trained: int, expected: list[int], differentiated: bool
) -> None:
    hidden, head, targets, _ = map(jnp.asarray, make_case())
    weights = jnp.asarray(np.random.default_rng(0).permutation(np.arange(TOKENS) < trained), jnp.float32)
    rows: list[int] = []
    layer = CountingHead(head, rows.append)

    def total(hidden: Any, weights: Any) -> Any:
        return next_token_loss(layer, hidden, targets, weights, chunks=(4, 2)).total

    jax.block_until_ready(jax.jit(jax.grad(total) if differentiated else total)(hidden, weights))
    jax.effects_barrier()
    assert sorted(rows, reverse=True) == expected


@pytest.mark.parametrize("chunks", [(4,), (512, 128)])
def test_tokens_without_weight_count_for_nothing(chunks: tuple[int, ...]) -> None:
    hidden, head, targets, weights = make_case()
    changed = np.where(weights[:, None] == 0, -7.0, hidden).astype(np.float32)
    others = np.where(weights == 0, (targets + 3) % VOCAB, targets)
    one, one_gradient, _ = loss_and_gradients(hidden, linear_head(head), targets, weights, chunks=chunks)
    two, _, _ = loss_and_gradients(changed, linear_head(head), others, weights, chunks=chunks)
    assert float(one.total) == float(two.total)
    assert not np.any(np.asarray(one_gradient)[weights == 0])
    assert np.all(np.any(one_gradient, axis=-1) == (weights > 0))


def test_what_is_without_weight_may_be_nan() -> None:
    hidden, head, targets, weights = make_case()
    total, _, head_gradient = reference(hidden, head, targets, weights)
    poisoned = np.where(weights[:, None] == 0, np.nan, hidden).astype(np.float32)
    # Chunks that the trained tokens fill to the last: nothing else is read.
    chunk = int((weights != 0).sum())
    loss, _, found = loss_and_gradients(poisoned, linear_head(head), targets, weights, chunks=(chunk,))
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    assert_near(found.weight, head_gradient)


def test_a_batch_without_weight_has_loss_zero_and_no_gradient() -> None:
    hidden, head, targets, weights = make_case()
    loss, *gradients = loss_and_gradients(hidden, linear_head(head), targets, np.zeros_like(weights), chunks=(4,))
    assert float(loss.scalar()) == 0.0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))  # NaN is true


def test_the_gradient_is_scaled_by_what_the_loss_is_multiplied_with() -> None:
    """Inside a scan over microbatches, as the training step does it."""
    hidden, head, targets, weights = map(jnp.asarray, make_case())
    factors = jnp.asarray([0.5, -2.0])

    @eqx.filter_jit
    def run(head: Any) -> Any:
        def add(total: Any, factor: Any) -> Any:
            def loss(head: Any) -> Any:
                return factor * next_token_loss(head, hidden, targets, weights, chunks=(4,)).total

            return jax.tree.map(jnp.add, total, eqx.filter_grad(loss)(head)), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, head), factors)[0]

    _, _, head_gradient = reference(hidden, head, np.asarray(targets), weights)
    assert_near(run(linear_head(head)).weight, -1.5 * head_gradient)


@pytest.mark.parametrize("scale", [1e3, 1e10, 1e30])
def test_huge_logits_stay_finite(scale: float) -> None:
    hidden, head, targets, weights = make_case(scale)
    total, _, head_gradient = reference(hidden, head, targets, weights)
    loss, hidden_gradient, found = loss_and_gradients(hidden, linear_head(head), targets, weights, chunks=(5,))
    assert float(loss.total) == pytest.approx(total, rel=1e-5)
    assert np.all(np.isfinite(hidden_gradient))
    assert_near(found.weight, head_gradient, 1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_bfloat16_logits_are_summed_in_float32(trained: bool) -> None:
    """Logits that bfloat16 holds exactly, and so many of them that it could not hold their sum."""
    rng = np.random.default_rng(0)
    hidden, head = rng.integers(-2, 3, (TOKENS, EMBED)), rng.integers(-1, 2, (1000, EMBED))
    targets, weights = rng.integers(0, 1000, TOKENS), rng.random(TOKENS).astype(np.float32)
    total, *gradients = reference(hidden, head, targets, weights)
    hidden16, head16 = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(head, jnp.bfloat16)
    loss, *found = loss_and_gradients(hidden16, linear_head(head16), targets, weights, trained=trained, chunks=(5,))
    assert loss.total.dtype == jnp.float32
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    for gradient, expected in zip(jax.tree.leaves(found), gradients, strict=trained):
        assert gradient.dtype == jnp.bfloat16
        assert np.abs(np.asarray(gradient).astype(np.float64) - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("trained", [True, False])
def test_a_sum_beyond_the_numbers_of_float16_is_no_gradient(trained: bool) -> None:
    """Of flat logits over a large vocabulary."""
    vocab = 70_000
    assert vocab > float(jnp.finfo(jnp.float16).max)
    hidden, head = np.zeros((TOKENS, EMBED)), np.random.default_rng(0).normal(size=(vocab, EMBED)).astype(np.float16)
    targets, weights = np.arange(TOKENS), np.ones(TOKENS, np.float32)
    _, expected, _ = reference(hidden, head, targets, weights)
    hidden16, head16 = jnp.asarray(hidden, jnp.float16), linear_head(head)
    _, found, _ = loss_and_gradients(hidden16, head16, targets, weights, trained=trained, chunks=(5,))
    assert np.abs(np.asarray(found).astype(np.float64) - expected).max() < 0.01 * np.abs(expected).max()


def test_sums_add_up_over_batches_as_means_do_not() -> None:
    hidden, head, targets, weights = map(jnp.asarray, make_case())
    whole = next_token_loss(linear_head(head), hidden, targets, weights)
    parts = (slice(4), slice(4, None))
    one, two = (next_token_loss(linear_head(head), hidden[s], targets[s], weights[s]) for s in parts)
    together = jax.tree.map(jnp.add, one, two)
    assert float(together.scalar()) == pytest.approx(float(whole.scalar()), rel=1e-6)
    assert abs(float(one.scalar() + two.scalar()) / 2 - float(whole.scalar())) > 1e-3


class Noise(eqx.Module):
    """A head whose logits are its keys."""

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        return jax.vmap(lambda one: jax.random.normal(one, (VOCAB,)))(key)


@pytest.mark.parametrize("chunks", [(1,), (4, 2), (8,)])
def test_each_token_has_the_key_that_is_its_own(chunks: tuple[int, ...]) -> None:
    """Whichever others are trained, and however many are computed at once."""
    keys = jax.random.split(jax.random.key(0), 8)

    @jax.jit
    def total(weights: Any) -> Any:
        targets = jnp.zeros(8, jnp.int32)
        return next_token_loss(Noise(), jnp.ones((8, EMBED)), targets, weights, chunks=chunks, key=keys).total

    alone = [float(total(jnp.eye(8)[token])) for token in range(8)]
    assert len({round(loss, 4) for loss in alone}) == 8
    assert float(total(jnp.asarray([0, 1, 0, 1, 1, 0, 0, 1.0]))) == pytest.approx(sum(alone[i] for i in (1, 3, 4, 7)))
