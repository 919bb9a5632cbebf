"""How long a run will still take, from the steps so far.

The first step may include a compilation, as may others where batches come in several shapes, so no step counts that
took many times as long as its neighbours. What lies between the steps (held-out losses, checkpoints) is counted apart,
and is taken to go on at the rate seen so far.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable

RECENT_STEPS = 100
OUTLIER = 5.0
"""A step that took longer than this many medians is none of the usual ones."""


class TimeLeft:
    """Estimates the seconds up to the last step.

    Args:
        total_steps: of the whole run.
        clock: seconds that only grow.
    """

    def __init__(self, total_steps: int, *, clock: Callable[[], float] = time.monotonic):
        self._total = total_steps
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._step: int | None = None
        self._at = 0.0
        self._pauses = 0.0
        self._counted = 0

    def step_done(self, step: int, seconds: float | None = None) -> None:
        """Takes note of a step that has just ended.

        Args:
            seconds: that it took; by default since the one before. The rest of that time was a pause.
        """
        now = self._clock()
        if self._step is not None and step > self._step:
            steps, passed = step - self._step, now - self._at
            took = passed / steps if seconds is None else seconds
            self._recent.append(took)
            self._pauses += max(passed - steps * took, 0.0)
            self._counted += steps
        self._step, self._at = step, now

    def seconds(self) -> float | None:
        """From now on; None until two steps have ended. Between two steps it runs down by no more than a step."""
        if self._step is None or not self._recent:
            return None
        median = statistics.median(self._recent)
        usual = statistics.fmean(took for took in self._recent if took <= OUTLIER * median)
        left = (self._total - self._step) * (usual + self._pauses / self._counted)
        return max(left - min(self._clock() - self._at, usual), 0.0)


def clock_face(seconds: float | None) -> str:
    """Hours, minutes and seconds: 0:01:05, 123:00:00; -:--:-- where they are not known."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
