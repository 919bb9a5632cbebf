"""Marks in texts, by which they are known again in what a chat template makes of them.

    row:        "yes"                            with a mark:  "y⟦7⟧es"
    rendering:  "<|im_start|>user\\nyes<|im_end|>"              "<|im_start|>user\\ny⟦7⟧es<|im_end|>"

A mark has the number of its text, so "yes" is told from every other "yes". It is made of noncharacters, which no text
is to hold, are no white space, and have no case; JSON and Python may write them as escapes, and are understood.

A template may write a text in other ways than the row does, and still say it: without the white space around it, with
other line ends or indentation, as a string of JSON, HTML or Python, in capitals. Such a form is found; a text of which
a word is missing is not.
"""

import functools
import html
import json
import re
from collections.abc import Iterator

_OPEN, _CLOSE = "\ufdd2", "\ufdd3"
_ZERO = 0xFDE0
_MARK = re.compile(rf"(?:{_OPEN}|\\+ufdd2)((?:[\ufde0-\ufdef]|\\+ufde[0-9a-f])+)(?:{_CLOSE}|\\+ufdd3)", re.IGNORECASE)
_DIGIT = re.compile(r"[\ufde0-\ufdef]|ufde([0-9a-f])", re.IGNORECASE)
_ANY = re.compile("[\ufdd2\ufdd3\ufde0-\ufdef]")


@functools.cache
def mark(number: int) -> str:
    """The mark of that number."""
    return _OPEN + "".join(chr(_ZERO + int(digit, 16)) for digit in f"{number:x}") + _CLOSE


def is_marked(text: str) -> bool:
    """Whether a text holds characters of marks, so that none can be put into it."""
    return _ANY.search(text) is not None


class MarkedRendering:
    """What a template made of a row whose texts are marked."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._last = 0
        self.places: dict[int, list[int]] = {}
        """Where the text with a mark of each number was written, as characters of `plain`."""
        pieces: list[str] = []
        end = length = 0
        for match in _MARK.finditer(text):
            pieces.append(text[end : match.start()])
            length += match.start() - end
            end = match.end()
            self.places.setdefault(_number(match[1]), []).append(length)
        pieces.append(text[end:])
        self.plain = "".join(pieces)
        """It without the marks."""

    def says(self, marked: str) -> bool:
        """Whether a text with a mark in it was written, in whichever form."""
        # Texts mostly come in the order in which they are asked for.
        place = self._text.find(marked, self._last)
        if place < 0:
            place = self._text.find(marked)
        if place >= 0:
            self._last = place
            return True
        return any(form in self._text or squeezed(form) in self._squeezed for form in forms(marked))

    @functools.cached_property
    def _squeezed(self) -> str:
        return squeezed(self._text)


def says(text: str, wanted: str) -> bool:
    """Whether `wanted`, which has no mark, stands somewhere in a text, in whichever form, and not within a word."""
    return any(
        find_word(text, form) is not None or find_word(squeezed(text), squeezed(form)) is not None
        for form in forms(wanted)
    )


def find_word(text: str, word: str, start: int = 0, end: int | None = None) -> tuple[int, int] | None:
    """Where `word` first stands within characters `[start, end)` of a text, not as a part of a longer word or number.

    "n" does not stand in "find", "1" not in "12", "1.5" or "-1", but in "1-2", "n1." and "(1)".
    """
    before = after = ""
    if re.match(r"\w", word):
        before = r"(?<!\w)(?<!\d\.)" + (r"(?<!(?<!\w)-)" if word[0].isdigit() else "")
    if re.search(r"\w\Z", word):
        after = r"(?!\w)(?!\.\d)"
    found = re.compile(before + re.escape(word) + after).search(text, start, len(text) if end is None else end)
    return None if found is None else found.span()


def forms(text: str) -> Iterator[str]:
    """The text, and how others would spell it."""
    yield text
    for is_ascii in (False, True):
        as_json = json.dumps(text, ensure_ascii=is_ascii)[1:-1]
        yield as_json
        yield json.dumps(as_json, ensure_ascii=is_ascii)[1:-1]  # JSON within JSON
        # As Jinja's own `tojson` has it, which is safe within HTML.
        yield _for_html(as_json)
    yield repr(text)[1:-1]
    yield html.escape(text)
    yield html.escape(text, quote=False)
    yield html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")  # MarkupSafe's
    yield text.replace("'", "\\'")


def squeezed(text: str) -> str:
    """A text with one space for any white space, and without case."""
    return " ".join(text.split()).casefold()


def _for_html(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("'", "\\u0027")


def _number(digits: str) -> int:
    return int("".join(match[1] or f"{ord(match[0]) - _ZERO:x}" for match in _DIGIT.finditer(digits)), 16)
