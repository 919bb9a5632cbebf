"""When a run ends before its last step, because its held-out loss has stopped falling.

It goes by the evaluations that are due every `steps_per_eval` steps and by no others, such as one after a signal: so a
run that was stopped and goes on ends where it would have ended.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from lodos.errors import UserError
from lodos.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class EarlyStoppingConfig:
    """When to end before the last step."""

    patience: int
    """Evaluations in a row without a lower held-out loss after which the run ends."""
    min_delta: float = 0.0
    """By how much, in nats a token, a loss has to be lower to count."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "EarlyStoppingConfig":
        """The config that the values are by name.

        Raises:
            UserError: for other names, and without patience.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if set(values) - set(names) or "patience" not in values:
            raise UserError(f"early_stopping: {dict(values)} must be of patience and min_delta: {{patience: 3}}.")
        return cls(**values)

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.patience, int) or self.patience < 1:
            problems.append(f"early_stopping.patience: {self.patience} must be a whole number, at least 1.")
        if not 0 <= self.min_delta < math.inf:
            problems.append(f"early_stopping.min_delta: {self.min_delta} must be a number, at least 0.")
        if problems:
            raise UserError("\n".join(problems))


class EarlyStopping:
    """Counts evaluations without improvement.

    Args:
        every: steps between the evaluations that count.
        before: those that an interrupted run had done.
    """

    def __init__(self, config: EarlyStoppingConfig, *, every: int, before: Iterable[Evaluation] = ()):
        self._config = config
        self._every = every
        self._lowest = math.inf
        self._step = 0
        self._in_vain = 0
        for evaluation in sorted(before, key=lambda evaluation: evaluation.step):
            self.observe(evaluation)

    def observe(self, evaluation: Evaluation) -> None:
        """Takes an evaluation into account, once."""
        if evaluation.step % self._every or evaluation.step <= self._step or self.is_over:
            return
        self._step = evaluation.step
        # A NaN is never below anything.
        if evaluation.loss < self._lowest - self._config.min_delta:
            self._lowest, self._in_vain = evaluation.loss, 0
        else:
            self._in_vain += 1

    @property
    def is_over(self) -> bool:
        return self._in_vain >= self._config.patience
