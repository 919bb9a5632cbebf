"""A template writes the day it is given, as transformers' own function would write it on that day."""

import datetime
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from lodos.prompting.template_date import asks_for_date, dated

TEMPLATE = "\n {{- strftime_now('%d %b %Y') if strftime_now is defined else 'no day' }}"


def _written(template: str) -> str:
    return str(chat_template_utils.render_jinja_template([[]], chat_template=template)[0][0])


@pytest.mark.parametrize(
    "format_",
    ["%d %b %Y", "%A, %-d %B %y", "%Y-%m-%d", "%j/%U week %V of %G", "%x %X", "100%% on %%d %d", "%%%d", "%D %F"],
)
@pytest.mark.parametrize("day", [datetime.date(2024, 2, 29), datetime.date(2026, 1, 5)])
def test_it_is_what_strftime_says(monkeypatch: pytest.MonkeyPatch, format_: str, day: datetime.date) -> None:
    class Then(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return datetime.datetime.combine(day, datetime.time())

    template = "{{ 'Today: ' ~ strftime_now(" + repr(format_) + ") }}"
    ours = _written(dated(template, day.isoformat()))
    monkeypatch.setattr(chat_template_utils, "datetime", Then)
    assert ours == _written(template) == f"Today: {datetime.datetime.combine(day, datetime.time()):{format_}}"


def test_nothing_else_of_the_template_changes() -> None:
    assert _written(dated(TEMPLATE, "2026-11-26")) == "26 Nov 2026"
    assert _written(dated("\n\nx{{ strftime_now('%d') }}\n", "2026-11-26")) == _written("\n\nx26\n")
    assert dated("{{ messages }}", "2026-11-26") == "{{ messages }}"
    assert asks_for_date(TEMPLATE)
    assert not asks_for_date("{{ messages }}")
