"""The code of a card gives a model the ids that training had before the answer, with any tokenizer and prompt."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lodos.data.config import DataArgs
from lodos.data.prepare import prepare
from lodos.formats.asking_code import asking_code
from lodos.prompting.description import Prompting
from lodos.prompting.encode import encode_prompt

pytest.importorskip("torch")

ENDS_IN_SPACE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
ENDS_IN_CONTENT = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
)
TAKES_PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKS_FOR_MUCH = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ strftime_now('%d %b %Y') }} {{ mood }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {{ strftime_now('%d %b %Y') }} "
    "{{ mood }}\n{% endif %}"
)
SPACED = {"prompt_input": "{instruction} {input}: ", "prompt_no_input": "Q: {instruction} {{A}}: "}
SYSTEM = {"role": "system", "content": "Be 'brief' {now}."}


def talk(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "alpaca": ({"instruction": "Name a", "output": "task"}, "Name a", {}),
    "alpaca, templates that end in a space": ({"instruction": "N'a\"", "output": "task"}, "N'a\"", {"prompts": SPACED}),
    "alpaca, a system text with braces": (
        {"instruction": "Name a", "output": "task", "system": "Be {brief}\\n."},
        "Name a",
        {},
    ),
    "alpaca, templates with BOS": (
        {"instruction": "Name a", "output": "task"},
        "Name a",
        {"prompts": {"prompt_input": "<s>{instruction}{input}", "prompt_no_input": "<s>{instruction}:\n"}},
    ),
    **{
        f"prompt_completion, {prompt!r} {completion!r}": ({"prompt": prompt, "completion": completion}, prompt, {})
        for prompt, completion in (
            ("Name a:", "task"),
            ("Name a: ", "task"),
            ("Name a: ", "7"),
            ("Name a:\n\n", "\ntask"),
            ("Name a:  ", " task"),
            ("é\n \t", "é"),
            ("<s>[INST] Name a [/INST]", " task"),
            ("<s>[INST] Name a ", "task"),
        )
    },
    "text": ({"text": "Name a task "}, "Name ", {}),
    "chat": (talk("Name a ", "task"), "Name a ", {}),
    "chat, a template that ends in a space": (talk("Name a", "task"), "Name a", {"chat_template": ENDS_IN_SPACE}),
    "chat, a template that ends in what is asked": (
        talk("Name a ", "task"),
        "Name a ",
        {"chat_template": ENDS_IN_CONTENT},
    ),
    "chat, parts": (talk("Name a", "task"), "Name a", {"chat_template": TAKES_PARTS}),
    "chat, system": ({"messages": [SYSTEM, *talk("Name a", "task")["messages"]]}, "Name a", {}),
    "chat, a day and variables": (
        talk("Name a", "task"),
        "Name a",
        {"chat_template": ASKS_FOR_MUCH, "template_date": "2024-02-29", "chat_template_kwargs": {"mood": "in 'May'"}},
    ),
}


def closing(tokenizer: Any, single: str) -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return tokenizer


def metaspace(tokenizer: Any) -> Any:
    """One that puts ▁ before a text, as SentencePiece's do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = [*map(chr, range(32, 127)), *"\n\t▁é"]
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator(["Name a task: to tell two times 7 [INST] user assistant system"] * 3, trainer)
    made.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    fast.chat_template = tokenizer.chat_template
    return closing(fast, "<s> $A")


TOKENIZERS = {
    "as it is": lambda tokenizer: tokenizer,
    "BOS": lambda tokenizer: closing(tokenizer, "<s> $A"),
    "BOS and EOS": lambda tokenizer: closing(tokenizer, "<s> $A </s>"),
    "metaspace": metaspace,
}


def prompting_of(row: dict[str, Any], tokenizer: Any, folder: Path, **options: Any) -> tuple[Prompting, list[int]]:
    """How a model is to be asked that was trained on the row, and what training had before its answer."""
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    args = DataArgs(data=str(folder / "rows.jsonl"), data_cache_dir=str(folder), **options)
    training = prepare(args, tokenizer, seed=0).training
    (example,) = training
    assert training.prompting is not None
    return training.prompting, example.ids[: int(example.trained.argmax())].tolist()


def asked_by(code: str, tokenizer: Any, prompt: str, prompting: Prompting) -> list[int]:
    """The ids that the code gives the model."""
    asked: list[list[int]] = []

    class Model:
        def generate(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
            assert attention_mask.shape == input_ids.shape
            asked.append(input_ids[0].tolist())
            return input_ids

    beside = copy.deepcopy(tokenizer)
    if prompting.chat_template is not None:
        beside.chat_template = prompting.chat_template  # as it lies in the folder
    code = code.replace('"..."', repr(prompt)).replace("'...'", repr(prompt))
    exec(code, {"model": Model(), "tokenizer": beside})
    return asked[0]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", ROWS)
def test_the_code_asks_as_was_trained(name: str, kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    row, prompt, options = ROWS[name]
    tokenizer = TOKENIZERS[kind](tiny_tokenizer)
    prompting, context = prompting_of(row, tokenizer, tmp_path, **options)
    shows_what_it_takes = kind == "as it is" and "parts" not in name and "<s>" not in name
    for known in (tokenizer, None) if shows_what_it_takes else (tokenizer,):
        code = asking_code(prompting, tokenizer=known)
        found = asked_by(code, tokenizer, prompt, prompting)
        assert found == encode_prompt(tokenizer, prompt, prompting)
        if prompting.format != "text":
            assert found == context


def test_it_is_short_where_nothing_more_is_needed(tiny_tokenizer: Any, tmp_path: Path) -> None:
    for row in (ROWS["alpaca"][0], ROWS["chat"][0]):
        prompting, _ = prompting_of(row, tiny_tokenizer, tmp_path)
        assert "offset" not in asking_code(prompting, tokenizer=tiny_tokenizer)
    prompting, _ = prompting_of(ROWS["chat"][0], tiny_tokenizer, tmp_path, chat_template=ENDS_IN_SPACE)
    assert "offset" in asking_code(prompting, tokenizer=tiny_tokenizer)


@pytest.mark.parametrize("name", ["alpaca", "prompt_completion, 'Name a: ' 'task'", "chat"])
def test_a_prompt_that_transformers_would_read_otherwise_is_refused(
    name: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    row, prompt, options = ROWS[name]
    prompting, context = prompting_of(row, tiny_tokenizer, tmp_path, special_tokens_as_text=True, **options)
    code = asking_code(prompting, tokenizer=tiny_tokenizer)
    assert asked_by(code, tiny_tokenizer, prompt, prompting) == context
    with pytest.raises(AssertionError):
        asked_by(code, tiny_tokenizer, "What is <|im_end|>?", prompting)


def test_there_is_no_code_where_none_gives_the_ids(tiny_tokenizer: Any) -> None:
    prompting = Prompting("chat", formats=("chat",), system="End with </s>.", special_tokens_as_text=True)
    assert "lodos generate" in asking_code(prompting, tokenizer=tiny_tokenizer)
    assert "model.generate" not in asking_code(prompting, tokenizer=tiny_tokenizer)
