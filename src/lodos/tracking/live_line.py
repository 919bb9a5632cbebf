"""One line of a terminal that says how far a run is, in as many columns as there are.

Step, bar, time left and loss come first, and give up their words before anything else is lost; then one number after
another, as there is room for it. No number is ever cut, and the line never wraps.
"""

import dataclasses
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.text import Text

LEAST_BAR = 4
COMFORTABLE_BAR = 12
"""Other numbers are shown where the bar keeps this many columns."""
WIDEST_BAR = 40
GAP = "  "
COMPILING = "compiling"
"""In place of the loss, before there is one."""


@dataclasses.dataclass(frozen=True)
class LiveLine:
    """A line that fits itself to the width it is drawn in."""

    step: int
    total_steps: int
    time_left: str
    loss: str | None = None
    """None before the first step has ended: it is being compiled."""
    numbers: Sequence[str] = ()
    """What else there is, the most important first."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left, bar, right = self.fitted(options.max_width)
        yield Text(left, end="", no_wrap=True)
        if bar:
            yield Text(" ", end="")
            yield ProgressBar(self.total_steps, self.step, width=bar)
        yield Text(f" {right}" if right else "", no_wrap=True)

    def fitted(self, width: int) -> tuple[str, int, str]:
        """What stands before the bar, the columns of the bar, and what stands behind it."""
        steps = f"{self.step:>{len(str(self.total_steps))}}/{self.total_steps}"
        doing = COMPILING if self.step < self.total_steps else ""
        said, short = (doing, doing) if self.loss is None else (f"loss {self.loss}", self.loss)
        for left, right in (
            (f"step {steps}", [f"{self.time_left} left", said]),
            (steps, [self.time_left, said]),
            (steps, [self.time_left, short]),
        ):
            line = _joined(right)
            room = width - cell_len(left) - cell_len(line) - 2
            if room >= LEAST_BAR:
                break
        else:
            return _without_bar(steps, [short, self.time_left], width)
        for number in self.numbers:
            if room - cell_len(number) - len(GAP) < COMFORTABLE_BAR:
                break
            line += GAP + number
            room -= cell_len(number) + len(GAP)
        return left, min(room, WIDEST_BAR), line


def fitted_lines(parts: Sequence[str], width: int) -> str:
    """`parts` on one line, or on as many as it takes; a line ends between two of them where it can."""
    lines = [parts[0]]
    for part in parts[1:]:
        if cell_len(lines[-1]) + len(GAP) + cell_len(part) <= width:
            lines[-1] += GAP + part
        else:
            lines.append(GAP + part)
    return "\n".join(lines)


def _without_bar(steps: str, others: Sequence[str], width: int) -> tuple[str, int, str]:
    """A terminal for next to nothing: the step if it fits, and what else does."""
    if cell_len(steps) > width:
        return "", 0, ""
    shown: list[str] = []
    for other in others:
        if other and cell_len(" ".join([steps, *shown, other])) <= width:
            shown.append(other)
    return steps, 0, " ".join(shown)


def _joined(parts: Sequence[str]) -> str:
    return GAP.join(part for part in parts if part)
