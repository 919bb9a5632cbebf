"""The day that a chat template writes as today's.

Templates ask for it by `strftime_now`, a function that transformers gives them (Llama 3.2 puts "Today Date: 26 Nov
2026" into its system turn). Tomorrow they would write other texts: a run that is resumed would not go on with what it
was trained on. transformers passes no functions to a template, so the day is put into the template itself, as a macro
of that name, which stands for the function there.
"""

import datetime
import re

_DIRECTIVES = "aAbBcCdDeFgGhHIjmMnpRStTuUVwWxXyY"
_PLAIN_NUMBERS = "dmHIMSjyUW"
_ASKS = re.compile(r"""strftime_now\(\s*(["'])([^"'\\]*)\1\s*\)""")
_PERCENT = "\ufdd1"  # in place of %% while others are replaced; a noncharacter, which no format holds


def asks_for_date(template: str) -> bool:
    """Whether a template writes the day on which it is rendered."""
    return "strftime_now" in template


def dated(template: str, day: datetime.date | str) -> str:
    """The template as it writes on that day, at midnight.

    Args:
        day: as a date, or as YYYY-MM-DD.
    """
    return date_macro(template, day) + template


def date_macro(template: str, day: datetime.date | str) -> str:
    """What has to stand before a template for it to write as on that day; "" where it writes no day."""
    if not asks_for_date(template):
        return ""
    day = datetime.date.fromisoformat(day) if isinstance(day, str) else day
    moment = datetime.datetime.combine(day, datetime.time())
    written = {f"%{letter}": moment.strftime(f"%{letter}") for letter in _DIRECTIVES}
    # The C library's extension, which many templates rely on: numbers without zeros in front.
    written |= {f"%-{letter}": str(int(moment.strftime(f"%{letter}"))) for letter in _PLAIN_NUMBERS}
    replaced = [("%%", _PERCENT), *written.items(), (_PERCENT, "%")]
    formats = [match[2] for match in _ASKS.finditer(template)]
    if len(formats) == template.count("strftime_now("):  # all that will be asked for stands there
        has_percent = any("%%" in format_ for format_ in formats)
        replaced = [
            (what, by)
            for what, by in replaced
            if (has_percent if _PERCENT in (what, by) else any(what in format_ for format_ in formats))
        ]
    filters = "".join(f" | replace({what!r}, {by!r})" for what, by in replaced)
    # "+" keeps a line end with which the template begins.
    return f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro +%}}"
