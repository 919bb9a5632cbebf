"""Held-out rows: the same ones for the same rows and seed, on every machine and with every library version.

Each place in the list gets the digest of (seed, place), and the smallest digests are held out. No random
number generator is involved whose stream could change between versions.
"""

import hashlib
import heapq
from collections.abc import Sequence
from typing import TypeVar

from lodos.errors import UserError

T = TypeVar("T")


def split(examples: Sequence[T], held_out: int | float, seed: int) -> tuple[list[T], list[T]]:
    """Splits into (training, held-out) examples, each in the order given.

    Args:
        held_out: how many to hold out (an int), or which fraction of all (a float below 1; at least one
            example).

    Raises:
        UserError: when `held_out` is neither, or leaves nothing to train on.
    """
    count = _count(len(examples), held_out)
    if count >= len(examples):
        raise UserError(f"held out: {held_out} of {len(examples)} examples leaves none to train on. Hold out fewer.")

    def digest(place: int) -> bytes:
        return hashlib.sha256(f"{seed}:{place}".encode()).digest()

    chosen = set(heapq.nsmallest(count, range(len(examples)), key=digest))
    kept = [example for i, example in enumerate(examples) if i not in chosen]
    return kept, [example for i, example in enumerate(examples) if i in chosen]


def _count(total: int, held_out: int | float) -> int:
    if isinstance(held_out, int) and not isinstance(held_out, bool) and held_out >= 0:
        return held_out
    if isinstance(held_out, float) and held_out == 0:
        return 0
    if isinstance(held_out, float) and 0 < held_out < 1:
        return max(1, round(held_out * total))
    raise UserError(f"held out: {held_out!r} is neither a count (0, 100, ...) nor a fraction above 0 and below 1.")
