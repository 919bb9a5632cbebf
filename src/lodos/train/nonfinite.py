"""A step whose loss or gradient is not finite: when to give up, and what is left for whoever looks into it.

Nothing of such a step is taken over; `lodos.train.step` sees to that on the device. Here is what the host does.
"""

import collections
import io
import json
import logging
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from lodos import hosts
from lodos.files import write_compared
from lodos.places.objects import write_object
from lodos.places.place import Place, is_remote

logger = logging.getLogger(__name__)

OnNonfinite = Literal["stop", "skip"]

MOST_SKIPPED, AMONG = 10, 100
"""Of so many steps in a row so many may be skipped; with one more the run gives up."""
_SHOWN = 8


class NonFiniteError(FloatingPointError):
    """The loss or the gradient of a step is not finite, and the run ends.

    Args:
        step: counted from 1.
    """

    def __init__(self, step: int, text: str):
        super().__init__(text)
        self.step = step


class Skips:
    """Counts the steps that are skipped."""

    def __init__(self) -> None:
        self.count = 0
        """By this process."""
        self._recent: collections.deque[int] = collections.deque()

    def add(self, step: int, said: str) -> None:
        """Counts one.

        Raises:
            NonFiniteError: when it is one too many.
        """
        self.count += 1
        self._recent.append(step)
        while self._recent[0] <= step - AMONG:
            self._recent.popleft()
        if len(self._recent) > MOST_SKIPPED:
            raise NonFiniteError(
                step, f"{said} Of the last {AMONG} steps {len(self._recent)} were skipped, so the run gives up."
            )
        logger.warning("%s The step is skipped, number %d of them.", said, self.count)


def dump_batch(folder: Place, step: int, batch: Any, origins: Sequence[Sequence[str]] | None) -> str:
    """Writes the batch of a step, as this host had it, and where its rows come from; what was written, in a sentence.

        step-<step>.npz     the arrays by their names, as `numpy.load` reads them
        step-<step>.json    for each row of the batch the examples in it, as "<file>, row <number>"

    Args:
        step: counted from 1.
        origins: of each row; None where nobody knows.
    """
    name = f"step-{step}" if hosts.count() == 1 else f"step-{step}-host-{hosts.index()}"
    arrays = {jax.tree_util.keystr(path).strip(".'[]"): np.asarray(leaf) for path, leaf in _leaves(batch)}
    file = io.BytesIO()
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    try:
        _write(folder / f"{name}.npz", file.getvalue())
        if origins is not None:
            text = json.dumps({"step": step, "rows": origins}, indent=2, ensure_ascii=False) + "\n"
            _write(folder / f"{name}.json", text.encode())
    except OSError as error:
        return f"Its batch could not be written: {error}."
    known = [where for row in origins or () for where in row]
    more = f" and {len(known) - _SHOWN} more, all in {name}.json" if len(known) > _SHOWN else ""
    rows = f", of {'; '.join(known[:_SHOWN])}{more}" if known else ""
    return f"Its batch is in {folder / f'{name}.npz'}{rows}."


def _leaves(batch: Any) -> Any:
    return jax.tree_util.tree_leaves_with_path(batch)


def _write(place: Place, data: bytes) -> None:
    if is_remote(place):
        write_object(place, data)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    write_compared(place, data)
