"""What of a config may be written into a file or shown: everything but secrets, which are known by their names."""

import re
from typing import Any

HIDDEN = "<hidden>"
LONGEST_SHOWN = 200
"""Characters of a value in an error."""

_NAME = re.compile(r"(^|[_-])(token|api_?key|key|password|passwd|secret|credential|auth)s?$", re.IGNORECASE)
_CAMEL_CASE = re.compile(r"[a-z](Token|Key|Secret|Password)s?$")
_TEXT = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|ghp_[A-Za-z0-9]{16,}|(sk|glpat|xox[bp])-[\w-]{16,})")
"""Tokens of services, which some write into a value of any name."""


def is_secret(name: str) -> bool:
    """Whether the last part of a dotted name looks like that of a secret."""
    last = name.rsplit(".", 1)[-1]
    return bool(_NAME.search(last) or _CAMEL_CASE.search(last))


def without_secrets(value: Any) -> Any:
    """Lists and mappings with what is called like a secret hidden."""
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: HIDDEN if item is not None and is_secret(str(key)) else without_secrets(item)
        for key, item in value.items()
    }


def without_tokens(text: str) -> str:
    """The text with tokens of services hidden."""
    return _TEXT.sub(HIDDEN, text)


def shown(value: Any, name: str = "") -> str:
    """A value as an error shows it: null, true and false in YAML's words, text in quotes, no secret."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if is_secret(name):
        return HIDDEN
    text = without_tokens(repr(without_secrets(value)))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
