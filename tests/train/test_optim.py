import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lodos.errors import UserError
from lodos.train.optim import UNUSED, OptimizerConfig

PEAK, STEPS = 2e-3, 40


def expected_rate(config: OptimizerConfig, step: int, warmup: int) -> float:
    """The formula of `OptimizerConfig.schedule`."""
    if step < warmup:
        return PEAK * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / (STEPS - warmup))
    floor = config.min_lr_ratio
    match config.lr_schedule:
        case "constant":
            return PEAK
        case "linear":
            return PEAK * (1 + (floor - 1) * progress)
        case "cosine":
            return PEAK * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


@pytest.mark.parametrize("lr_schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (1, 1), (8, 8), (0.25, 10), (STEPS + 10, STEPS)])
@pytest.mark.parametrize("min_lr_ratio", [0.0, 0.1])
def test_the_learning_rate_is_the_formulas(lr_schedule: str, warmup: float, steps: int, min_lr_ratio: float) -> None:
    config = OptimizerConfig(learning_rate=PEAK, lr_schedule=lr_schedule, warmup=warmup, min_lr_ratio=min_lr_ratio)
    schedule = config.schedule(STEPS)
    for step in sorted({0, 1, max(0, steps - 1), min(steps, STEPS - 1), STEPS // 2, STEPS - 1}):
        assert float(np.asarray(schedule(step))) == pytest.approx(
            expected_rate(config, step, steps), rel=1e-5, abs=1e-9
        )


def test_the_rate_stays_at_the_end_of_the_decay() -> None:
    schedule = OptimizerConfig(learning_rate=PEAK, min_lr_ratio=0.1, warmup=0).schedule(STEPS)
    assert float(np.asarray(schedule(STEPS + 50))) == pytest.approx(PEAK * 0.1)


def test_adamw_with_decay_and_clipping_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    config = OptimizerConfig(
        learning_rate=1e-2, weight_decay=0.1, max_grad_norm=0.5, warmup=0, lr_schedule="constant", beta2=0.99
    )
    rng = np.random.default_rng(0)
    ours = jnp.asarray(rng.normal(size=7), jnp.float32)
    theirs = torch.nn.Parameter(torch.tensor(np.asarray(ours)))
    optimizer = config.build(20)
    state = optimizer.init(ours)
    adamw = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    for _ in range(20):
        gradient = rng.normal(size=7).astype(np.float32)
        updates, state = optimizer.update(jnp.asarray(gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        theirs.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        adamw.step()
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "adam", "lion", "sgd", "adafactor"])
def test_every_optimizer_lowers_a_quadratic(kind: str) -> None:
    optimizer = OptimizerConfig(type=kind, learning_rate=1e-2, warmup=0).build(100)
    x = jnp.full((3,), 2.0)
    state = optimizer.init(x)
    for _ in range(100):
        updates, state = optimizer.update(x, state, x)
        x = optax.apply_updates(x, updates)
    assert float(jnp.abs(x).max()) < 1.9


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"(?s)learning_rate: 0.*min_lr_ratio: 2.*warmup: -1.*max_grad_norm: 0"):
        OptimizerConfig(learning_rate=0, min_lr_ratio=2, warmup=-1, max_grad_norm=0)
    with pytest.raises(UserError, match=r"(?s)beta1: 1.0.*beta2: -0.1.*epsilon: 0.0.*weight_decay: -0.1"):
        OptimizerConfig(beta1=1.0, beta2=-0.1, epsilon=0.0, weight_decay=-0.1)


@pytest.mark.parametrize(("kind", "names"), UNUSED.items())
def test_a_setting_that_would_change_nothing_is_refused(kind: Any, names: tuple[str, ...]) -> None:
    other = {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-6}
    # As small as an epsilon of 1e-6, which then makes a difference.
    gradients = jnp.asarray(1e-6 * np.random.default_rng(0).normal(size=(50, 3)), jnp.float32)

    def trained(**settings: float) -> list[float]:
        update = OptimizerConfig(type=kind, learning_rate=0.1, warmup=0, **settings).build(len(gradients))
        x = jnp.full(3, 1e-3)
        state = update.init(x)
        for gradient in gradients:
            updates, state = update.update(gradient, state, x)
            x = optax.apply_updates(x, updates)
        return np.asarray(x).tolist()

    for name, value in other.items():
        if name in names:
            with pytest.raises(UserError, match=f"{name}: {kind} has none. Leave it at"):
                OptimizerConfig(type=kind, **{name: value})
        else:
            assert trained(**{name: value}) != trained(), name
