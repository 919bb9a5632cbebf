"""What of a config may be written into a file or shown: everything but secrets, which are known by their names."""

import re
from typing import Any

HIDDEN = "<hidden>"
LONGEST_SHOWN = 200
"""Characters of a value in an error."""

_NAME = re.compile(
    r"(^|[_-])(token|api_?key|key|password|passwd|passphrase|secret|credential|auth|authorization|bearer|cookie)s?$",
    re.IGNORECASE,
)
_CAMEL_CASE = re.compile(r"[a-z](Token|Key|Secret|Password)s?$")
_URL = re.compile(
    r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://)(?:(?P<user>[^\s/?#'\"]*)@)?(?P<host>[^\s?#'\"]*)(?P<query>[?#][^\s'\"]*)?"
)
_PART = re.compile(r"(?<=[?&;#])([^=&;#\s]+)=([^&;#\s'\"]*)")
_SIGNED = re.compile(r"^(sig|signature|x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|policy|pwd|pass|jwt|code)$", re.I)
"""What signed URLs call their parts, and other names that `is_secret` does not know."""
_TEXT = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[opsu]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|(sk|glpat|xox[abps])-[\w-]{16,}"
    r"|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}|eyJ[\w-]{16,}\.[\w-]+\.[\w-]+)|(?<=Bearer )\S{8,}|(?<=Basic )\S{8,}"
)
"""Tokens of services, which some write into a value of any name."""


def is_secret(name: str) -> bool:
    """Whether the last part of a dotted name looks like that of a secret."""
    last = name.rsplit(".", 1)[-1]
    return bool(_NAME.search(last) or _CAMEL_CASE.search(last))


def without_secrets(value: Any) -> Any:
    """Lists and mappings with what is called like a secret hidden, and what URLs carry of them."""
    if isinstance(value, str):
        return _URL.sub(_without_its_secrets, value)
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        _key(key): HIDDEN if item is not None and is_secret(str(key)) else without_secrets(item)
        for key, item in value.items()
    }


def url_secrets(text: str) -> list[str]:
    """The passwords, tokens and signatures that the URLs of a text carry."""
    found = []
    for url in _URL.finditer(text):
        found += [part for part in (url["user"] or "").split(":") if part != HIDDEN][-1:]
        found += [value for name, value in _PART.findall(url["query"] or "") if _is_secret_part(name)]
    return [part for part in found if part and part != HIDDEN]


def _key(key: Any) -> Any:
    return without_tokens(without_secrets(key)) if isinstance(key, str) else key


def hides_something(value: Any) -> bool:
    """Whether there is a URL in it, a list or a mapping, of which `without_secrets` has hidden a part."""
    if isinstance(value, list | tuple):
        return any(hides_something(item) for item in value)
    if isinstance(value, dict):
        return hides_something(list(value.values()))
    return isinstance(value, str) and any(HIDDEN in url[0] for url in _URL.finditer(value))


def _without_its_secrets(url: re.Match[str]) -> str:
    scheme, user, host, query = url["scheme"], url["user"], url["host"], url["query"] or ""
    hidden = _PART.sub(lambda part: f"{part[1]}={HIDDEN if _is_secret_part(part[1]) else part[2]}", query)
    return f"{scheme}{'' if user is None else f'{HIDDEN}@'}{host}{hidden}"


def _is_secret_part(name: str) -> bool:
    return is_secret(name) or bool(_SIGNED.search(name))


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
