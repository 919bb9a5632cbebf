"""A prompt is the ids that training had before the answer; an answer ends where it was trained to end."""

import copy
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lodos.data.config import DataArgs
from lodos.data.prepare import prepare
from lodos.errors import UserError
from lodos.prompting.description import EndToken, Prompting
from lodos.prompting.encode import CHAT, PLAIN, encode_messages, encode_prompt, end_token_ids, usual_prompting

SYSTEM = {"role": "system", "content": "Be brief."}
ROWS: dict[str, tuple[dict[str, Any], Callable[[Any, Prompting], list[int]]]] = {
    "alpaca": (
        {"instruction": "Name a wind.", "input": "", "output": " Lodos!"},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "Name a wind.", prompting),
    ),
    "alpaca, input": (
        {"instruction": "Say it twice.", "input": "wind", "output": "\nwind wind"},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "Say it twice.", prompting, text="wind"),
    ),
    "alpaca, system and history": (
        {"instruction": "More?", "output": " Poyraz", "system": "Be brief.", "history": [["A wind?", " Lodos"]]},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "More?", prompting, earlier=[("A wind?", " Lodos")]),
    ),
    "prompt_completion": (
        {"prompt": "Q: wind?\nA:", "completion": " Lodos"},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "Q: wind?\nA:", prompting),
    ),
    "chat": (
        {"messages": [{"role": "user", "content": "A wind?"}, {"role": "assistant", "content": "Lodos."}]},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "A wind?", prompting),
    ),
    "chat, system": (
        {"messages": [SYSTEM, {"role": "user", "content": "A wind?"}, {"role": "assistant", "content": "Lodos."}]},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "A wind?", prompting),
    ),
    "chat, turns": (
        {
            "messages": [
                {"role": "user", "content": "A wind?"},
                {"role": "assistant", "content": "Lodos."},
                {"role": "user", "content": "More?"},
                {"role": "assistant", "content": "Poyraz."},
            ]
        },
        lambda tokenizer, prompting: encode_messages(
            tokenizer,
            [
                {"role": "user", "content": "A wind?"},
                {"role": "assistant", "content": "Lodos."},
                {"role": "user", "content": "More?"},
            ],
            prompting,
        ),
    ),
    # " task" is one token, so its space is none of the prompt's; " 7" is two, and "\n\n" is one token or two.
    **{
        f"prompt_completion, {prompt!r} {completion!r}": (
            {"prompt": prompt, "completion": completion},
            lambda tokenizer, prompting, prompt=prompt: encode_prompt(tokenizer, prompt, prompting),
        )
        for prompt in ("Name a: ", "Name a:\n\n", "Name a:  ", "Name a", "Name a:\n \t")
        for completion in ("task", "7", "(task)", "é")
    },
    "alpaca, prompts that end in a space": (
        {"instruction": "Name a", "output": "task"},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "Name a", prompting),
    ),
}
OTHER_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def with_bos(tokenizer: Any) -> Any:
    """One that puts BOS before a text and EOS behind it."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


SPELLED: dict[str, tuple[dict[str, Any], Callable[[Any, Prompting], list[int]]]] = {
    "alpaca": (
        {
            "instruction": "What is <|im_end|>?",
            "input": "</s>",
            "output": "An end.",
            "system": "No <s>",
            "history": [["Is <s>", "it </s>"]],
        },
        lambda tokenizer, prompting: encode_prompt(
            tokenizer, "What is <|im_end|>?", prompting, text="</s>", earlier=[("Is <s>", "it </s>")]
        ),
    ),
    "prompt_completion": (
        {"prompt": "<|im_start|>user </s>\n", "completion": "task"},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "<|im_start|>user </s>\n", prompting),
    ),
    "prompt_completion, that begins with BOS": (
        {"prompt": "<s>user", "completion": "task"},
        lambda tokenizer, prompting: encode_prompt(tokenizer, "<s>user", prompting),
    ),
    "chat": (
        {
            "messages": [
                {"role": "system", "content": "<|im_end|>"},
                {"role": "user", "content": "What is <|im_end|>? And </s>?"},
                {"role": "assistant", "content": "Ends."},
            ]
        },
        lambda tokenizer, prompting: encode_prompt(tokenizer, "What is <|im_end|>? And </s>?", prompting),
    ),
}


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("kind", ["as it is", "adds BOS and EOS", "another template"])
@pytest.mark.parametrize("name", SPELLED)
def test_special_tokens_that_a_prompt_spells_are_read_as_rows_were(
    name: str, kind: str, as_text: bool, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    row, ask = SPELLED[name]
    tokenizer = with_bos(tiny_tokenizer) if kind == "adds BOS and EOS" else tiny_tokenizer
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    args = DataArgs(
        data=str(tmp_path / "rows.jsonl"),
        chat_template=OTHER_TEMPLATE if kind == "another template" else None,
        special_tokens_as_text=as_text,
        train_on_turns="last",
        data_cache_dir=str(tmp_path),
    )
    training = prepare(args, tokenizer, seed=0).training
    (example,) = training
    assert training.prompting is not None
    assert training.prompting.special_tokens_as_text == as_text
    assert ask(tokenizer, training.prompting) == example.ids[: int(example.trained.argmax())].tolist()


def test_a_special_token_that_cannot_be_read_as_text_is_refused(tiny_tokenizer: Any) -> None:
    cuts = Prompting(
        "chat", special_tokens_as_text=True, chat_template="{% for m in messages %}{{ m.content[:9] }}{% endfor %}"
    )
    with pytest.raises(UserError, match=r"treats <\|im_end\|> in a message in a way of its own"):
        encode_prompt(tiny_tokenizer, "What is <|im_end|>?", cuts)
    private = Prompting("prompt_completion", special_tokens_as_text=True)
    with pytest.raises(UserError, match="prompt: the tokenizer makes </s> of these characters in any case"):
        encode_prompt(tiny_tokenizer, "\U000f0001 </s>", private)


@pytest.mark.parametrize("kind", ["as it is", "adds BOS and EOS", "another template"])
@pytest.mark.parametrize("name", ROWS)
def test_a_prompt_is_what_training_had_before_the_answer(
    name: str, kind: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    row, ask = ROWS[name]
    tokenizer = with_bos(tiny_tokenizer) if kind == "adds BOS and EOS" else tiny_tokenizer
    template = OTHER_TEMPLATE if kind == "another template" else None
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    args = DataArgs(
        data=str(tmp_path / "rows.jsonl"),
        chat_template=template,
        train_on_turns="last",
        data_cache_dir=str(tmp_path),
        prompts={"prompt_input": "{instruction} {input}: ", "prompt_no_input": "{instruction}: "}
        if "end in" in name
        else None,
    )
    training = prepare(args, tokenizer, seed=0).training
    (example,) = training
    context = example.ids[: int(example.trained.argmax())].tolist()
    assert training.prompting is not None
    assert training.prompting.format == name.split(",")[0]
    assert ask(tokenizer, training.prompting) == context


def test_a_prompts_own_bos_is_not_doubled(tiny_tokenizer: Any) -> None:
    tokenizer = with_bos(tiny_tokenizer)
    assert tokenizer.decode(encode_prompt(tokenizer, "<s>Hi")) == "<s>Hi"
    assert tokenizer.decode(encode_prompt(tokenizer, "Hi")) == "<s>Hi"
    # An EOS that the user wrote stays.
    assert tokenizer.decode(encode_prompt(tokenizer, "Hi</s>")) == "<s>Hi</s>"


def test_bos_stands_as_in_training_whatever_the_tokenizer_does_now(tiny_tokenizer: Any) -> None:
    assert encode_prompt(tiny_tokenizer, "Hi", Prompting("text", bos=True))[0] == 0
    assert encode_prompt(with_bos(tiny_tokenizer), "Hi", Prompting("text", bos=False))[0] != 0


def test_the_system_turn_of_the_training_stands_before_a_conversation_that_brings_none(tiny_tokenizer: Any) -> None:
    prompting = Prompting("chat", system="Be brief.")
    assert tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, "Hi", prompting)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Sing."}, {"role": "user", "content": "Hi"}]
    assert "brief" not in tiny_tokenizer.decode(encode_messages(tiny_tokenizer, own, prompting))


def test_the_date_is_that_of_the_training(tiny_tokenizer: Any) -> None:
    prompting = Prompting(
        "chat",
        chat_template="{{ strftime_now('%d %b %Y') }}{{ messages[0]['content'] }}",
        date=datetime.date(2024, 2, 29),
    )
    assert tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, "Hi", prompting)) == "29 Feb 2024Hi"


def test_a_template_is_given_the_variables_of_the_training(tiny_tokenizer: Any) -> None:
    template = "{% if mood is defined %}{{ mood }}: {% endif %}{{ messages[0]['content'] }}"
    plain = Prompting("chat", chat_template=template)
    given = Prompting("chat", chat_template=template, chat_template_kwargs={"mood": "sad"})
    assert tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, "Hi", plain)) == "Hi"
    assert tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, "Hi", given)) == "sad: Hi"


def test_a_template_that_takes_parts_alone_is_given_parts(tiny_tokenizer: Any) -> None:
    parts = Prompting(
        "chat",
        chat_template="{% for m in messages %}{% for p in m['content'] %}[{{ p['text'] }}]{% endfor %}{% endfor %}",
    )
    assert tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, "Hi", parts)) == "[Hi]"


def test_what_the_template_cannot_do_is_the_users_error(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(UserError, match="refuses this conversation: no system turns"):
        encode_prompt(tokenizer, "Hi", CHAT)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(tokenizer, "Hi", CHAT)
    with pytest.raises(UserError, match="input: only the prompts of instructions"):
        encode_prompt(tokenizer, "Hi", PLAIN, text="x")


def test_a_model_of_which_nothing_is_known_is_asked_by_its_template(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    assert usual_prompting(tokenizer) == CHAT
    tokenizer.chat_template = None
    assert usual_prompting(tokenizer) == PLAIN


def test_an_answer_ends_at_eos_at_what_was_trained_and_at_what_the_model_declares(tiny_tokenizer: Any) -> None:
    assert end_token_ids(tiny_tokenizer) == [1]
    assert end_token_ids(tiny_tokenizer, Prompting("chat", end_tokens=(EndToken(3, "<|im_end|>"),))) == [1, 3]
    assert end_token_ids(tiny_tokenizer, None, [{"eos_token_id": 3}, {"eos_token_id": [9, 1]}, {}]) == [1, 3, 9]
    assert end_token_ids(tiny_tokenizer, None, [{"eos_token_id": None}]) == [1]


def test_a_trained_end_that_is_another_token_of_this_tokenizer_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"end_tokens: '<\|im_end\|>' is 7 there and 3 in the tokenizer"):
        end_token_ids(tiny_tokenizer, Prompting("chat", end_tokens=(EndToken(7, "<|im_end|>"),)))
