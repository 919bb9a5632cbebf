"""When a checkpoint is written, and which of them stay.

    save_interval: 100                       every 100 steps
    save_interval: 10m                       when ten minutes have passed since the last one; also 90s, 1h30m, 1d
    keep: 2                                  the two newest
    keep: [{every: 50, until: 200}, {every: 1000}]
                                             every 50th step up to 200, then every 1000th, for good; and the newest

The first of the entries whose `until` is not yet behind decides. At steps that stay, one is always written.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lodos.errors import UserError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}

Keep = int | Sequence[Mapping[str, int | None]]


class SaveSchedule:
    """Says after each step whether a checkpoint is due.

    Args:
        save_interval: steps, or a time.
        keep: how many of the newest stay, or which others do.
        clock: seconds that only go forward.
    """

    def __init__(self, save_interval: int | str, keep: Keep, *, clock: Callable[[], float] = time.monotonic):
        self._steps = save_interval if isinstance(save_interval, int) else None
        self._seconds = seconds_of(save_interval) if isinstance(save_interval, str) else None
        self._keep = keep
        self._clock = clock
        self._last = clock()

    def is_due(self, step: int, *, is_time: bool | None = None) -> bool:
        """Whether to write one now, after `step` steps.

        Args:
            is_time: what several hosts have agreed on; of one alone its own clock tells.
        """
        every = self._steps is not None and step % self._steps == 0
        return self.stays(step) or every or (self.is_time() if is_time is None else is_time)

    def is_time(self) -> bool:
        """Whether the time between checkpoints has passed, where it is a time."""
        return self._seconds is not None and self._clock() - self._last >= self._seconds

    def saved(self) -> None:
        """One was written; the time counts anew."""
        self._last = self._clock()

    def stays(self, step: int) -> bool:
        """Whether the checkpoint of this step is kept when it is no longer among the newest."""
        return stays(self._keep, step)


def stays(keep: Keep, step: int) -> bool:
    """Whether what was saved after this step is kept when it is no longer among the newest."""
    for entry in () if isinstance(keep, int) else keep:
        until = entry.get("until")
        if until is None or step <= until:
            every = entry["every"]
            return every is not None and step % every == 0
    return False


def newest_kept(keep: Keep) -> int:
    """How many of the newest stay."""
    return keep if isinstance(keep, int) else 1


def seconds_of(text: str) -> int:
    """The seconds of a time such as 90s, 10m or 1h30m.

    Raises:
        UserError: for anything else, and for no time at all.
    """
    words = "".join(rf"(?:(\d+)\s*{unit}\s*)?" for unit in _UNITS)
    match = re.fullmatch(words, text.strip())
    seconds = (
        sum(int(count) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True) if count)
        if match
        else 0
    )
    if not seconds:
        raise UserError(f"save_interval: {text!r} is no time. Write steps (100), or a time such as 90s, 10m or 1h30m.")
    return seconds


def schedule_problems(save_interval: int | str, keep: Any) -> list[str]:
    """What is wrong with the two settings; empty when nothing is."""
    problems = []
    if isinstance(save_interval, str):
        try:
            seconds_of(save_interval)
        except UserError as error:
            problems.append(str(error))
    elif save_interval < 1:
        problems.append(f"save_interval: {save_interval} must be at least 1 step.")
    return [*problems, *keep_problems("keep", keep)]


def keep_problems(name: str, keep: Any) -> list[str]:
    """What is wrong with a setting that says what is kept."""
    if isinstance(keep, int):
        return [f"{name}: {keep} must be at least 1."] if keep < 1 else []
    problems = []
    before: int | None = 0
    for entry in keep:
        every, until = entry.get("every"), entry.get("until")
        if unknown := sorted(set(entry) - {"every", "until"}):
            problems.append(
                f"{name}: unknown {', '.join(unknown)} in {entry}. An entry is {{every: 1000, until: 5000}}."
            )
        if every is None or every < 1:
            problems.append(f"{name}: every is {every} in {entry}, and must be at least 1 step.")
        if before is None or (until is not None and until <= before):
            problems.append(f"{name}: {entry} comes after all steps of the entry before it have been decided.")
        before = until
    return problems
