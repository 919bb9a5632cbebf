"""Calls and tools have one form, whichever a row or a kind of file has; the same rows give the same from each."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lodos.data.reading.sources import iter_rows, parse_sources
from lodos.data.text.formats import make_format
from lodos.data.text.tool_calls import call_of, calls_of, tools_from

ARGUMENTS = {"city": "Ghent", "nights": 2, "with": {"breakfast": True}, "extras": [None, "cot"]}
CALL = {"type": "function", "function": {"name": "book", "arguments": ARGUMENTS}}


@pytest.mark.parametrize(
    "given",
    [
        CALL,
        {"type": "function", "function": {"name": "book", "arguments": json.dumps(ARGUMENTS)}},
        {"name": "book", "arguments": ARGUMENTS},
        {"name": "book", "arguments": json.dumps(ARGUMENTS, indent=2)},
        {"name": "book", "arguments": json.dumps(json.dumps(ARGUMENTS))},
        {"name": "book", "parameters": ARGUMENTS},
        {"type": "tool_use", "name": "book", "input": ARGUMENTS},
    ],
)
def test_a_call_has_one_form(given: Any) -> None:
    assert call_of(given) == (CALL, [])
    assert calls_of(json.dumps([given])) == ([CALL], [])


def test_ids_stay_and_arguments_that_are_not_there_are_none() -> None:
    told, problems = call_of({"id": "c1", "name": "now"})
    assert told == {"id": "c1", "type": "function", "function": {"name": "now", "arguments": {}}}
    assert problems == []
    for nothing in (None, "", " \n", "null"):
        assert call_of({"id": "c1", "name": "now", "arguments": nothing}) == (told, [])


def test_what_a_call_says_otherwise_is_not_lost() -> None:
    _, ((place, what),) = call_of({"function": {"name": "book", "argument": {"city": "Ghent"}}})
    assert (place, what) == (".function.argument", "is nothing that a call has: its arguments belong into arguments.")
    _, ((place, what),) = call_of({"name": "book", "arguments": {}, "parameters": {"city": "Ghent"}})
    assert what.startswith("has arguments and parameters, which mean the same")


def test_nulls_of_objects_are_dropped_but_not_those_of_lists_and_of_text() -> None:
    padded = {**CALL, "id": None, "function": {"name": "book", "arguments": {**ARGUMENTS, "end": None}}}
    assert calls_of([padded]) == ([CALL], [])
    (told,), _ = calls_of([{"name": "f", "arguments": '{"end": null}'}])
    assert told["function"]["arguments"] == {"end": None}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{'city': 'Ghent'}", "is text that is not JSON (Expecting property name"),
        ("[" * 100_000, "is text that is not JSON"),
        ('{"a": 1, "a": 2}', "is text that is not JSON (the key 'a' occurs twice)"),
        ('{"a": NaN}', "is text that is not JSON (NaN is no JSON)"),
        ('"Ghent"', "must be a JSON object"),
        ([1], "must be a JSON object"),
        (0, "must be a JSON object"),
    ],
)
def test_arguments_that_are_no_object_are_refused(arguments: Any, says: str) -> None:
    _, ((place, what),) = call_of({"type": "function", "function": {"name": "book", "arguments": arguments}})
    assert place == ".function.arguments"
    assert what.startswith(says)


def test_tools_may_be_text_as_a_whole_one_by_one_or_in_their_parameters() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "book", "parameters": parameters}}
    as_text = {"type": "function", "function": {"name": "book", "parameters": json.dumps(parameters)}}
    for given in ([tool], json.dumps([tool]), [json.dumps(tool)], [as_text]):
        assert tools_from(given) == [tool]
    for bad in ("{}", "book", [3], ["book"], {"name": "book"}):
        assert tools_from(bad) is None


def test_tables_train_what_lines_train(tmp_path: Path, tiny_tokenizer: Any) -> None:
    template = (
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m | tojson }}<|im_end|>{% endfor %}"
    )

    def row(name: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
        properties = {key: {"type": "string"} for key in arguments}
        schema = {"type": "object", "properties": properties, "required": list(arguments)}
        return {
            "tools": [{"type": "function", "function": {"name": name, "parameters": schema, **more}}],
            "messages": [
                {"role": "user", "content": "Please"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
                },
            ],
        }

    rows = [row("rooms", {"city": "Ghent"}), row("trains", {"end": "Lille", "start": "Ghent"}, description="Trains")]
    rows.append({"tools": None, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    row_format = make_format("chat", tokenizer=tiny_tokenizer, chat_template=template)

    def texts(name: str) -> list[str]:
        (source,) = parse_sources(str(tmp_path / name))
        return [row_format.example(each).text for each in iter_rows(source)]

    assert texts("rows.parquet") == texts("rows.jsonl")
    assert "null" not in "".join(texts("rows.jsonl"))
