"""The held-out loss during training, and the step at which it was lowest."""

import dataclasses
from collections.abc import Callable, Iterable

from lodos.train.hooks import StepInfo
from lodos.types import LmExample


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A held-out loss, in nats a token."""

    step: int
    loss: float


class EvaluationHook:
    """Evaluates the model when called and remembers the best step.

    Args:
        evaluate: from a model and batches to a loss, such as `Trainer.evaluate`.
        batches: the held-out batches; iterated anew each time.
        on_evaluation: called with each result and whether it is the best so far.
        best: what an interrupted run had reached.
    """

    def __init__(
        self,
        evaluate: Callable[..., float],
        batches: Iterable[LmExample],
        on_evaluation: Callable[[StepInfo, Evaluation, bool], None],
        *,
        best: Evaluation | None = None,
    ):
        self._evaluate = evaluate
        self._batches = batches
        self._on_evaluation = on_evaluation
        self.best = best

    def __call__(self, info: StepInfo) -> None:
        evaluation = Evaluation(info.step, self._evaluate(info.model, self._batches))
        # A NaN is never below anything, so it is never the best.
        is_best = evaluation.loss < (self.best.loss if self.best else float("inf"))
        self._on_evaluation(info, evaluation, is_best)
        # What could not be kept is no best.
        if is_best:
            self.best = evaluation
