"""What this process has seen of secrets, and text without it, for whatever is said of errors.

An error names the value that is wrong, and libraries quote what they were given. So whatever stands in the environment,
on the command line or in a config under the name of a secret, or in a URL, is remembered as a secret when it is read,
and is hidden wherever it comes up in what is said: in errors, warnings and tracebacks.
"""

import os
import re
from collections.abc import Sequence

from lodos.config_secrets import HIDDEN, is_secret, url_secrets, without_secrets, without_tokens

_PAIR = re.compile(r"(?<![\w.-])([\w.-]+)[\"']?(?:=|\s*:(?:\s*\n\s*(?:-\s)?)?\s*)(?=([^\n]{0,300}))")
"""A name and what follows it on its line or, in YAML, as the next one."""
_PARTS = re.compile(r"[^\s,{}\[\]'\"*&!<>]+")
_OF_TOKENIZERS = re.compile(
    r"(^|[._-])(bos|eos|pad|unk|sep|cls|mask|image|special|stop|end|max|new|num|target|total|train\w*)s?_?tokens?$",
    re.I,
)
_SHORTEST, _SURELY = 6, 20

_known: set[str] = set()


def remember(name: str, value: str) -> None:
    """Remembers the parts of a value that looks like a secret by its name, and what URLs in it carry."""
    if is_secret(name) and not _OF_TOKENIZERS.search(name):
        _known.update(part for part in [value.strip(), *_PARTS.findall(value)] if _is_one(part))
    _known.update(part for part in url_secrets(value) if len(part) >= _SHORTEST)


def remember_text(text: str) -> None:
    """Remembers what stands in a text, such as that of a config, behind names of secrets and in URLs."""
    for name, value in _PAIR.findall(text):
        remember(name, re.sub(r"\s#.*", "", value))
    remember("", text)


def remember_arguments(arguments: Sequence[str]) -> None:
    """Remembers the secrets of a command line."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        remember(before.lstrip("-").replace("-", "_"), argument)
        remember_text(argument)


def hidden(text: str) -> str:
    """The text without secrets: those remembered, those of the environment, tokens of services, and those of URLs."""
    for name, value in os.environ.items():
        remember(name, value)
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return without_tokens(without_secrets(text))


def _is_one(part: str) -> bool:
    """Whether it is more than a word or a number."""
    if len(part) < _SHORTEST or part == HIDDEN:
        return False
    is_mixed = re.search(r"[0-9]", part) and re.search(r"[A-Za-z]", part)
    return bool(is_mixed) or (len(part) >= _SURELY and not re.search(r"[\s/]", part))
