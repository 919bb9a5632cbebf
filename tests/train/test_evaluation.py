import math

import jax
import jax.numpy as jnp
import optax
import pytest

from lodos.train.evaluation import Evaluation, EvaluationHook
from lodos.train.hooks import StepInfo
from lodos.train.state import TrainerState

NAN = math.nan


def run(losses: list[float], best: Evaluation | None = None) -> tuple[Evaluation | None, list[int]]:
    """The best evaluation after steps 1, 2, ... with these losses, and the steps that were called the best."""
    bests: list[int] = []

    def on_evaluation(_: StepInfo, evaluation: Evaluation, is_best: bool) -> None:
        seen.append(evaluation)
        if is_best:
            bests.append(evaluation.step)

    seen: list[Evaluation] = []
    hook = EvaluationHook(lambda model, batches: losses[model - 1], [], on_evaluation, best=best)
    for step in range(1, len(losses) + 1):
        # The "model" is the step, from which `evaluate` above knows its loss.
        state = TrainerState(jnp.asarray(step), step, optax.EmptyState(), jax.random.key(0), True)
        hook(StepInfo(state, step, None))
    assert [evaluation.step for evaluation in seen] == list(range(1, len(losses) + 1))
    return hook.best, bests


@pytest.mark.parametrize(
    ("losses", "step", "bests"),
    [
        ([3.0, 2.0, 2.5, 1.0, 4.0], 4, [1, 2, 4]),
        ([1.0, 2.0, 3.0], 1, [1]),
        ([2.0, 2.0], 1, [1]),  # the first of equals
        ([NAN, 2.0, NAN, 1.0, NAN], 4, [2, 4]),
    ],
)
def test_the_lowest_loss_is_remembered(losses: list[float], step: int, bests: list[int]) -> None:
    assert run(losses) == (Evaluation(step, losses[step - 1]), bests)


def test_a_nan_is_never_the_best() -> None:
    assert run([NAN, NAN]) == (None, [])
    assert run([math.inf]) == (None, [])


def test_an_interrupted_runs_best_still_counts() -> None:
    earlier = Evaluation(7, 1.5)
    assert run([2.0, 1.5], earlier) == (earlier, [])
    assert run([2.0, 1.0], earlier) == (Evaluation(2, 1.0), [2])
