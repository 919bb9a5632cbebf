"""How a model has to be asked is found in what is trained on: formats, ends, BOS, system turns."""

import copy
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from lodos.data.config import DataArgs
from lodos.data.first_rows import prepare_first_rows
from lodos.data.prepare import prepare
from lodos.prompting.description import EndToken, Prompting
from lodos.prompting.prompts import ALPACA_PROMPTS

EOS, TURN_END = EndToken(1, "</s>"), EndToken(3, "<|im_end|>")
ALPACA = {"instruction": "Name a wind.", "output": "Lodos"}
ENDS_BY_WHAT_IS_SAID = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}"
    "{{ eos_token if m['content'] is upper else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)


def chat(*said: str, system: str | None = None) -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    return {"messages": [*([] if system is None else [{"role": "system", "content": system}]), *turns]}


def asked(
    rows: list[dict[str, Any]] | list[list[dict[str, Any]]], tokenizer: Any, tmp_path: Path, **args: Any
) -> Prompting:
    """What is found out of rows, or of several files of them; the same from the cache and from a stream's beginning."""
    files = rows if isinstance(rows[0], list) else [rows]
    paths = []
    tmp_path.mkdir(exist_ok=True)
    for number, of_file in enumerate(files):
        paths.append(tmp_path / f"{number}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in of_file), encoding="utf-8")
    config = DataArgs(data=[str(path) for path in paths], data_cache_dir=str(tmp_path / "cache"), **args)
    made, cached = (prepare(config, tokenizer, seed=0).training.prompting for _ in range(2))
    (tmp_path / "first").mkdir()
    streamed = prepare_first_rows(config, tokenizer, count=100, folder=tmp_path / "first").training.prompting
    assert made is not None
    assert made == cached == streamed
    return made


def test_instructions_are_asked_in_their_prompts_and_end_in_eos(tiny_tokenizer: Any, tmp_path: Path) -> None:
    assert asked([ALPACA], tiny_tokenizer, tmp_path) == Prompting(
        "alpaca", formats=("alpaca",), prompts=ALPACA_PROMPTS, bos=False, end_tokens=(EOS,), answers_begin="L"
    )


def test_a_chat_ends_where_its_template_ends_turns_and_not_in_eos(tiny_tokenizer: Any, tmp_path: Path) -> None:
    found = asked([chat("A wind?", "Lodos.", "More?", "Poyraz.")], tiny_tokenizer, tmp_path)
    assert found == Prompting(
        "chat",
        formats=("chat",),
        chat_template=tiny_tokenizer.chat_template,
        bos=False,
        end_tokens=(TURN_END,),
        answers_begin="P",
    )


@pytest.mark.parametrize("mask_inputs", [True, False])
def test_every_token_that_ends_a_turn_is_found(mask_inputs: bool, tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [chat("A wind?", "Lodos.", "More?", "POYRAZ.")]
    found = asked(rows, tiny_tokenizer, tmp_path, chat_template=ENDS_BY_WHAT_IS_SAID, mask_inputs=mask_inputs)
    assert found.chat_template == ENDS_BY_WHAT_IS_SAID
    assert found.end_tokens == ((EOS, TURN_END) if mask_inputs else (EOS,))


def test_an_end_that_no_row_trains_is_none(tiny_tokenizer: Any, tmp_path: Path) -> None:
    long = chat("A wind?", "x y z " * 30, "More?", "Poyraz.")
    rows = [long, chat("A wind?", "Lodos.", "More?", "Poyraz.")]
    found = asked(rows[:1], tiny_tokenizer, tmp_path, max_tune_length=64, overflow="truncate")
    assert found.end_tokens == ()


def test_a_special_token_in_the_middle_of_an_answer_is_no_end(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "Write it:", "completion": "<|im_end|>"}, {"prompt": "And:", "completion": "<|im_start|> x"}]
    found = asked(rows, tiny_tokenizer, tmp_path)
    assert (found.format, found.end_tokens) == ("prompt_completion", (EOS,))


def test_what_most_answers_begin_with_is_noted(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}: ", "completion": said} for n, said in enumerate(["one", "7", "7 or 8"])]
    assert asked([rows[:1], rows], tiny_tokenizer, tmp_path).answers_begin == "o"
    assert asked([rows], tiny_tokenizer, tmp_path / "most").answers_begin == "7"


def test_bos_is_noted_as_rows_have_it(tiny_tokenizer: Any, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert asked([{"text": "Lodos"}], tokenizer, tmp_path).bos is True


@pytest.mark.parametrize(
    ("systems", "expected"),
    [
        (["Be brief."] * 3, "Be brief."),
        (["Be brief.", "Sing.", "Sing."], None),
        (["Be brief.", None], None),
        ([None], None),
    ],
)
def test_a_system_turn_is_that_of_all_rows_or_none(
    systems: list[str | None], expected: str | None, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [chat("A wind?", f"Lodos {i}.", system=system) for i, system in enumerate(systems)]
    assert asked(rows, tiny_tokenizer, tmp_path).system == expected


def test_of_several_formats_the_most_frequent_is_asked_and_all_are_named(tiny_tokenizer: Any, tmp_path: Path) -> None:
    chats = [chat("A wind?", f"Lodos {i}.", system="Be brief.") for i in range(3)]
    found = asked([[ALPACA], chats], tiny_tokenizer, tmp_path)
    assert found.formats == ("chat", "alpaca")
    assert found.format == "chat"
    assert found.prompts == ALPACA_PROMPTS
    assert found.system == "Be brief."
    assert found.end_tokens == (EOS, TURN_END)


def test_a_prompt_and_a_completion_of_turns_are_asked_as_a_chat(tiny_tokenizer: Any, tmp_path: Path) -> None:
    turns = chat("A wind?", "Lodos.")["messages"]
    found = asked([{"prompt": turns[:1], "completion": turns[1:]}], tiny_tokenizer, tmp_path)
    assert (found.format, found.end_tokens) == ("chat", (TURN_END,))


def test_instructions_with_turns_before_them_are_noted(tiny_tokenizer: Any, tmp_path: Path) -> None:
    row = {**ALPACA, "system": "Be brief.", "history": [["Hello", "Hi"]]}
    found = asked([row], tiny_tokenizer, tmp_path)
    assert (found.system, found.history, found.has_turns) == ("Be brief.", True, True)


def test_a_day_that_the_template_writes_is_noted(tiny_tokenizer: Any, tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %b') }}" + tiny_tokenizer.chat_template
    rows = [chat("A wind?", "Lodos.")]
    found = asked(rows, tiny_tokenizer, tmp_path, chat_template=template, template_date="2024-02-29")
    assert found.date == datetime.date(2024, 2, 29)


MOODY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ mood | default('calm') }}\n{{ m['content'] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {{ mood | default('calm') }}\n{% endif %}"
)


@pytest.mark.parametrize(
    ("of_rows", "of_run", "kept"),
    [
        ([None, None], None, {}),
        ([None, None], {"mood": "sad"}, {"mood": "sad"}),
        ([{"mood": "gay"}, {"mood": "gay"}], {"mood": "sad"}, {"mood": "gay"}),
        (['{"mood": "gay"}', {"mood": "gay"}], None, {"mood": "gay"}),
        ([{"mood": "gay"}, {"mood": None}], {"mood": "sad"}, {"mood": "sad"}),
        ([{"mood": "gay"}, {}], None, {}),
    ],
)
def test_the_variables_that_all_rows_were_written_with_are_noted(
    of_rows: list[Any], of_run: Any, kept: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{**chat("Hi", "Ho"), "chat_template_kwargs": variables} for variables in of_rows]
    found = asked(rows, tiny_tokenizer, tmp_path, chat_template=MOODY, chat_template_kwargs=of_run)
    assert found.chat_template_kwargs == kept


def test_how_special_tokens_were_read_is_noted(tiny_tokenizer: Any, tmp_path: Path) -> None:
    assert asked([ALPACA], tiny_tokenizer, tmp_path, special_tokens_as_text=True).special_tokens_as_text
    assert not asked([ALPACA], tiny_tokenizer, tmp_path / "other").special_tokens_as_text
