"""Templates of widely used models, written down as they are: which rows each writes whole, and what each loses."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from lodos.data.reading.rows import DroppedTextError, Row, RowError
from lodos.data.text.formats import make_format

TEMPLATES = Path(__file__).parent / "templates"
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))

USER = {"role": "user", "content": "How many boxes of screws are left?"}
ANSWER = {"role": "assistant", "content": "There are 41 boxes."}
SYSTEM = {"role": "system", "content": "You keep the store."}
AGAIN = [{"role": "user", "content": "And of nails?"}, {"role": "assistant", "content": "None."}]
PARAMETERS = {
    "type": "object",
    "properties": {"item": {"type": "string", "description": "What is looked for"}},
    "required": ["item"],
}
TOOL = {"type": "function", "function": {"name": "stock", "description": "Counts boxes", "parameters": PARAMETERS}}
ASKS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "abcdef123", "type": "function", "function": {"name": "stock", "arguments": {"item": "screws"}}}
    ],
}
GETS = {"role": "tool", "tool_call_id": "abcdef123", "name": "stock", "content": '{"screws": 41}'}
CALLS = {"messages": [USER, ASKS, GETS, ANSWER], "tools": [TOOL]}
THINKS = {**ANSWER, "reasoning_content": "I have counted them."}
THINKS_ALOUD = {**ANSWER, "content": "<think>\nI have counted them.\n</think>\n\nThere are 41 boxes."}

WITH_TOOLS = {"llama-3.1", "qwen2.5", "qwen3", "mistral-v0.3", "hermes-2-pro"}
WITHOUT_SYSTEM = {"gemma-2", "mistral-v0.3"}
"""Gemma 2 refuses it, and this Mistral writes it only where a user has the last word."""
THINKING = {"qwen3"}


@pytest.fixture
def trained(tokenizer: Any) -> Any:
    """`trained(name, row, **options)`: the text of a row, and what of it is trained."""

    def of(name: str, row: dict[str, Any], **options: Any) -> tuple[str, str]:
        template = (TEMPLATES / f"{name}.jinja").read_text()
        row_format = make_format("chat", tokenizer=tokenizer, chat_template=template, **options)
        made = row_format.example(Row("a.jsonl", 3, row))
        return made.text, "|".join(made.text[start:end] for start, end in made.trained)

    return of


@pytest.mark.parametrize("name", NAMES)
def test_ordinary_rows_are_written_whole(trained: Any, name: str) -> None:
    for said in ([USER, ANSWER], [SYSTEM, USER, ANSWER]):
        if said[0] is SYSTEM and name in WITHOUT_SYSTEM:
            with pytest.raises(RowError, match=r"System role not supported|does not go on"):
                trained(name, {"messages": said})
            continue
        text, answer = trained(name, {"messages": said})
        assert all(message["content"] in text for message in said)
        assert "There are 41 boxes." in answer
        assert USER["content"] not in answer


@pytest.mark.parametrize("name", NAMES)
def test_of_a_longer_talk_every_turn_or_the_last_is_trained(trained: Any, name: str) -> None:
    row = {"messages": [USER, ANSWER, *AGAIN]}
    assert "None." in trained(name, row, train_on_turns="last")[1]
    if name == "qwen3":
        with pytest.raises(RowError, match=r"messages\[1\] is rewritten"):
            trained(name, row)
    else:
        assert "boxes." in trained(name, row)[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_text", [False, True])
def test_calls_are_written_as_json_once(trained: Any, name: str, as_text: bool) -> None:
    function = {"name": "stock", "arguments": '{"item": "screws"}' if as_text else {"item": "screws"}}
    asks = {**ASKS, "tool_calls": [{**ASKS["tool_calls"][0], "function": function}]}
    # After a result that is the last, Hermes writes another white space than where an answer follows.
    row = {**CALLS, "messages": [USER, asks] if name == "hermes-2-pro" else [USER, asks, GETS, ANSWER]}
    turns = "last" if name in ("qwen3", "deepseek-r1") else "all"
    if name in WITH_TOOLS:
        text, answers = trained(name, row, train_on_turns=turns)
        assert '{"item": "screws"}' in text
        assert ('{"item": "screws"}' in answers) == (turns == "all")
        assert "Counts boxes" in text
    else:
        with pytest.raises(RowError):
            trained(name, row, train_on_turns=turns)


@pytest.mark.parametrize("name", NAMES)
def test_thinking_is_trained_or_refused(trained: Any, name: str) -> None:
    if name in THINKING:
        assert "I have counted them.\n</think>\n\nThere are 41" in trained(name, {"messages": [USER, THINKS]})[1]
        assert trained(name, {"messages": [USER, THINKS]}) == trained(name, {"messages": [USER, THINKS_ALOUD]})
        return
    with pytest.raises(DroppedTextError, match=r"messages\[1\].reasoning_content is left out .*I have counted"):
        trained(name, {"messages": [USER, THINKS]})
    if name == "deepseek-r1":
        with pytest.raises(DroppedTextError, match=r"messages\[1\].content is left out .*I have counted"):
            trained(name, {"messages": [USER, THINKS_ALOUD]})
    else:
        assert "<think>\nI have counted them." in trained(name, {"messages": [USER, THINKS_ALOUD]})[1]


def test_thinking_of_earlier_turns_is_left_out_where_the_last_is_trained(trained: Any) -> None:
    row = {"messages": [USER, THINKS_ALOUD, *AGAIN]}
    text, answer = trained("qwen3", row, train_on_turns="last")
    assert "counted" not in text
    assert answer == "<think>\n\n</think>\n\nNone.<|im_end|>"


@pytest.mark.parametrize("name", NAMES)
def test_content_may_be_parts(trained: Any, name: str) -> None:
    def in_parts(message: dict[str, Any]) -> dict[str, Any]:
        half = len(message["content"]) // 2
        return {**message, "content": [{"type": "text", "text": message["content"][:half]}, message["content"][half:]]}

    whole = {"messages": [USER, ANSWER]}
    text, _ = trained(name, whole)
    parts = {"messages": [in_parts(USER), in_parts(ANSWER)]}
    # Gemma 3 takes the white space off each part.
    assert "".join(trained(name, parts)[0].split()) == "".join(text.split())


def test_llama_calls_one_thing_at_a_time_and_says_nothing_beside(trained: Any) -> None:
    beside = {**ASKS, "content": "I look it up."}
    with pytest.raises(DroppedTextError, match=r"messages\[1\].content is left out .*I look it up"):
        trained("llama-3.1", {**CALLS, "messages": [USER, beside, GETS, ANSWER]})
    assert trained("llama-3.1", {**CALLS, "messages": [USER, beside, GETS, ANSWER]}, on_dropped_text="warn")
    twice = {**ASKS, "tool_calls": ASKS["tool_calls"] * 2}
    with pytest.raises(RowError, match="single tool-calls"):
        trained("llama-3.1", {**CALLS, "messages": [USER, twice]})


@pytest.mark.parametrize("name", ["hermes-2-pro", "mistral-v0.3"])
def test_text_beside_a_call_is_lost_by_others_too(trained: Any, name: str) -> None:
    with pytest.raises(DroppedTextError, match=r"messages\[1\].content is left out"):
        trained(name, {**CALLS, "messages": [USER, {**ASKS, "content": "I look it up."}]})


@pytest.mark.parametrize("name", ["phi-3", "zephyr"])
def test_results_that_are_passed_over_are_refused(trained: Any, name: str) -> None:
    with pytest.raises(DroppedTextError, match=r"messages\[2\].content is left out .*screws"):
        trained(name, {"messages": [USER, {"role": "assistant", "content": "Let me look."}, GETS, ANSWER]})


def test_llamas_day_is_the_one_that_is_given(trained: Any) -> None:
    row = {"messages": [USER, ANSWER]}
    assert "Today Date: 03 Feb 2025\n" in trained("llama-3.1", row, template_date="2025-02-03")[0]
    today = datetime.date.today()
    assert any(
        f"Today Date: {day:%d %b %Y}\n" in trained("llama-3.1", row)[0] for day in (today, datetime.date.today())
    )
