"""The description of how a model is asked comes back as it was written, or is refused by file and field."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from lodos.errors import UserError
from lodos.prompting.description import FILE, EndToken, Prompting, read_prompting, write_prompting
from lodos.prompting.prompts import ALPACA_PROMPTS

WHOLE = Prompting(
    "chat",
    formats=("chat", "alpaca"),
    prompts=ALPACA_PROMPTS,
    chat_template="{% for m in messages %}{{ m['content'] }}<|im_end|>\n{% endfor %}",
    system="Be brief — 日本語.",
    chat_template_kwargs={"enable_thinking": False, "custom": {"words": ["日", None, 1.5]}},
    date=datetime.date(2026, 2, 28),
    bos=False,
    special_tokens_as_text=True,
    end_tokens=(EndToken(2, "<|im_end|>"), EndToken(0, "</s>")),
    answers_begin="日",
)


@pytest.mark.parametrize("prompting", [WHOLE, Prompting("text"), Prompting("alpaca", prompts=ALPACA_PROMPTS, bos=True)])
def test_what_is_written_is_read(prompting: Prompting, tmp_path: Path) -> None:
    write_prompting(prompting, tmp_path)
    expected = dataclasses.replace(prompting, formats=prompting.formats or (prompting.format,))
    assert read_prompting(tmp_path) == expected


def test_a_folder_without_the_file_says_nothing(tmp_path: Path) -> None:
    assert read_prompting(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 3}, "version: 3 is not 1 to 2"),
        ({"version": 0}, "version: 0 is not 1 to 2"),
        ({"version": None}, "version: None is not 1 to 2"),
        ({"special_tokens_as_text": None}, "special_tokens_as_text: must be true or false, found None"),
        ({"chat_template_kwargs": None}, "chat_template_kwargs: must be a mapping of variables, found None"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs: must be a mapping of variables"),
        ({"format": "chats"}, "format: must be one of alpaca, prompt_completion, chat, text, found 'chats'"),
        ({"format": "text"}, "format: 'text' is not among formats"),
        ({"formats": []}, "formats: must be"),
        ({"prompts": None}, "prompts: null, though instructions were trained"),
        ({"prompts": {"prompt_input": "{instruction}{input}"}}, "prompt_no_input is missing"),
        ({"chat_template": "other.jinja"}, "chat_template: must be null or chat_template.jinja"),
        ({"system": 3}, "system: must be null or text, found 3"),
        ({"date": "28.2.2026"}, "date: must be null or a date"),
        ({"history": None}, "history: must be true or false"),
        ({"bos": 1}, "bos: must be true, false or null, found 1"),
        ({"end_tokens": [{"id": "2", "text": "x"}]}, "end_tokens: must be a list such as"),
        ({"answers_begin": ""}, "answers_begin: must be a character, found ''"),
        ({"temperature": 1}, "temperature: unknown"),
    ],
)
def test_what_is_damaged_is_named_by_file_and_field(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_prompting(WHOLE, tmp_path)
    fields = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    (tmp_path / FILE).write_text(json.dumps({**fields, **change}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_prompting(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / FILE}: ")
    assert said in str(error.value)


def test_a_file_of_the_first_version_is_read_as_it_was_meant(tmp_path: Path) -> None:
    write_prompting(WHOLE, tmp_path)
    fields = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    del fields["chat_template_kwargs"], fields["special_tokens_as_text"]
    (tmp_path / FILE).write_text(json.dumps({**fields, "version": 1}), encoding="utf-8")
    assert read_prompting(tmp_path) == dataclasses.replace(WHOLE, chat_template_kwargs={}, special_tokens_as_text=False)
    (tmp_path / FILE).write_text(json.dumps({**fields, "version": 2}), encoding="utf-8")
    with pytest.raises(UserError, match="special_tokens_as_text: missing"):
        read_prompting(tmp_path)


def test_all_that_is_wrong_comes_at_once(tmp_path: Path) -> None:
    write_prompting(WHOLE, tmp_path)
    fields = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    del fields["end_tokens"]
    (tmp_path / FILE).write_text(json.dumps({**fields, "bos": "yes"}), encoding="utf-8")
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError) as error:
        read_prompting(tmp_path)
    lines = str(error.value).splitlines()
    assert [line.removeprefix(f"{tmp_path / FILE}: ").split(":")[0] for line in lines] == [
        "end_tokens",
        "bos",
        "chat_template",
    ]


@pytest.mark.parametrize("text", ["[]", "{", "null"])
def test_what_is_no_description_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=FILE):
        read_prompting(tmp_path)
