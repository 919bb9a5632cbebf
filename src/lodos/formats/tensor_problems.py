"""What is wrong with hundreds of tensors, in few lines: what all layers have in common is said once."""

import re
from collections.abc import Iterable

SHOWN = 12
"""Lines; a wrong config.json makes every tensor wrong in a way of its own."""


def problem_lines(problems: Iterable[tuple[str, str]], *, shown: int = SHOWN) -> list[str]:
    """Lines for (name, what is wrong with it), those that differ by a layer's number alone as one with a star.

    [("layers.0.up", "missing"), ("layers.1.up", "missing")] -> ["layers.*.up: missing (2 tensors)."]
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, wrong in problems:
        groups.setdefault((re.sub(r"(?<=\.)\d+(?=\.)", "*", name), wrong), []).append(name)
    lines = [
        f"{names[0]}: {wrong}." if len(names) == 1 else f"{pattern}: {wrong} ({len(names)} tensors)."
        for (pattern, wrong), names in groups.items()
    ]
    if len(lines) > shown:
        left = sum(len(names) for names in list(groups.values())[shown:])
        lines = [*lines[:shown], f"and {left} more tensors."]
    return lines
