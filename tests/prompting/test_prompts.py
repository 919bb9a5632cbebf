"""The text of a prompt is Stanford's, and row text goes through it untouched."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodos.errors import UserError
from lodos.prompting.prompts import ALPACA_PROMPTS, Prompts, read_prompts


def test_the_default_prompts_are_stanfords() -> None:
    assert ALPACA_PROMPTS.render("Add.", "1 and 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:"
    )
    assert ALPACA_PROMPTS.render("Go.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the"
        " request.\n\n### Instruction:\nGo.\n\n### Response:"
    )
    assert read_prompts() is ALPACA_PROMPTS


@given(st.text(alphabet="{}inputstrco %\\$01"), st.text(alphabet="{}inputstrco %\\$01", min_size=1))
def test_row_text_is_never_formatted(instruction: str, text: str) -> None:
    prompts = Prompts("<{instruction}|{input}>", "<{instruction}>")
    assert prompts.render(instruction, text) == f"<{instruction}|{text}>"
    assert prompts.render(instruction) == f"<{instruction}>"
    assert prompts.render("{input}", "x") == "<{input}|x>"


def test_pieces_tell_the_rows_text_from_the_templates() -> None:
    prompts = Prompts("<{instruction}|{input}>", "{{{instruction}")
    assert prompts.pieces("a", "b") == [("<", False), ("a", True), ("|", False), ("b", True), (">", False)]
    assert prompts.pieces("a") == [("{", False), ("a", True)]


def test_doubled_braces_are_literal() -> None:
    assert Prompts("{{{instruction}}} {input}", "{{}} {instruction}").render("a", "b") == "{a} b"
    assert Prompts("{instruction} {input}", "{{}} {instruction}").render("a") == "{} a"


def test_files_and_mappings_give_the_same_prompts(tmp_path: Path) -> None:
    mapping = {
        "description": "alpaca-lora's files have this",
        "prompt_input": "{instruction}\n{input}\n",
        "prompt_no_input": "{instruction}\n",
    }
    (tmp_path / "p.json").write_text(json.dumps(mapping))
    (tmp_path / "p.yaml").write_text(
        'prompt_input: "{instruction}\\n{input}\\n"\nprompt_no_input: "{instruction}\\n"\n'
    )
    expected = Prompts("{instruction}\n{input}\n", "{instruction}\n")
    assert read_prompts(mapping) == read_prompts(tmp_path / "p.json") == read_prompts(tmp_path / "p.yaml") == expected


def test_all_template_problems_are_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        read_prompts({"prompt_input": "{instruction} {question} {input!r}", "prompt_no_input": "{input}"})
    assert str(error.value).split("\n") == [
        "prompts: prompt_input: unknown placeholder {question}; it knows {instruction} and {input}. "
        "Write a literal brace as {{ or }}.",
        "prompts: prompt_input: unknown placeholder {input!r}; it knows {instruction} and {input}. "
        "Write a literal brace as {{ or }}.",
        "prompts: prompt_no_input: unknown placeholder {input}; it knows {instruction}. "
        "Write a literal brace as {{ or }}.",
        "prompts: prompt_no_input: {instruction} is missing, so the instruction of a row would be lost.",
    ]


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"prompt_input": "{instruction}{input}"}, "prompt_no_input is missing; there are prompt_input"),
        ({}, "prompt_input is missing; there are no keys"),
        ({"prompt_input": 3, "prompt_no_input": "{instruction}"}, "prompt_input must be text, found 3"),
        ({"prompt_input": "{instruction} }", "prompt_no_input": "{instruction}"}, "Write a literal brace"),
        (
            {"prompt_input": "{instruction}", "prompt_no_input": "{instruction}"},
            "input of a row would be lost",
        ),
    ],
)
def test_bad_mappings_are_refused(mapping: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_prompts(mapping)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.json", "{", "cannot be read"),
        ("p.yaml", "a: [", "cannot be read"),
        ("p.yaml", "- a\n", "must be a mapping"),
        ("p.yaml", "prompt_input: a\nprompt_input: b\n", "line 2: .prompt_input. is given twice"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says) as error:
        read_prompts(tmp_path / name)
    assert name in str(error.value)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such prompts file"):
        read_prompts(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="no such prompts file"):
        read_prompts("memory://a/none.json")
