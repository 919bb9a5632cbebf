"""The names of a model of more than text, of which the decoder is a part.

Its weights are `model.language_model.*` and `lm_head.*` in transformers, and so are the names of modules in PEFT's
adapters. Files that are older than these names call them `language_model.model.*` and `language_model.lm_head.*`.
Whatever else is in the files (towers for images and sound, projectors) is left as it is.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

LANGUAGE_MODEL = "model.language_model."
_HEAD = "lm_head."
_OLDER = {"language_model.model.": LANGUAGE_MODEL, "language_model.lm_head.": _HEAD}


def called(name: str) -> str:
    """The name in transformers of a tensor of the files."""
    for older, newer in _OLDER.items():
        if name.startswith(older):
            return newer + name.removeprefix(older)
    return name


def is_text(name: str) -> bool:
    return name.startswith((LANGUAGE_MODEL, _HEAD))


def what_else(names: Iterable[str]) -> str:
    """The parts that are not of text, with how many tensors each has: `multi_modal_projector (1), vision_tower (3)`."""
    others = [name.removeprefix("model.") for name in names if not is_text(name)]
    counts = Counter(name.split(".")[0] for name in others)
    return ", ".join(f"{part} ({count})" for part, count in sorted(counts.items()))


def as_pattern(target_modules: Sequence[str]) -> str:
    """PEFT's `target_modules` that selects of these, names or endings, what is of text: towers have a q_proj too."""
    endings = "|".join(re.escape(name.removeprefix(LANGUAGE_MODEL)) for name in target_modules if name != "lm_head")
    patterns = [rf"{re.escape(LANGUAGE_MODEL)}(?:.*\.)?(?:{endings})"] if endings else []
    return "|".join([*patterns, *(["lm_head"] if "lm_head" in target_modules else [])])
