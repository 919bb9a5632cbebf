"""Ollama's templates say what the chat templates say, or are not written."""

from typing import Any

import pytest

from lodos.errors import UserError
from lodos.formats.ollama import Turns, modelfile, turn_template
from lodos.prompting.description import EndToken, Prompting

CONVERSATIONS: list[Turns] = [
    (("user", "Hello {{ .Content }}"),),
    (("system", 'Be "brief".'), ("user", "one"), ("assistant", "two"), ("user", "three")),
    (("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c"), ("user", "d\n")),
]


def chatml(turns: Turns) -> str:
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


def with_default_system(turns: Turns) -> str:
    return chatml(turns if turns[0][0] == "system" else (("system", "You are Lodos."), *turns))


def llama_3(turns: Turns) -> str:
    said = (f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in turns)
    return "<|begin_of_text|>" + "".join(said) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def zephyr(turns: Turns) -> str:
    return "".join(f"<|{role}|>\n{text}</s>\n" for role, text in turns) + "<|assistant|>\n"


def vicuna(turns: Turns) -> str:
    parts = {"system": "{} ", "user": "USER: {} ", "assistant": "ASSISTANT: {}</s>"}
    return "".join(parts[role].replace("{}", text) for role, text in turns) + "ASSISTANT: "


@pytest.mark.parametrize("render", [chatml, with_default_system, llama_3, zephyr, vicuna])
def test_turns_are_written_as_the_template_writes_them(render: Any) -> None:
    found = turn_template(render)
    assert found is not None
    for turns in CONVERSATIONS:
        assert found.rendered(turns) == render(turns)


def two_roles(turns: Turns) -> str:
    if turns[0][0] == "system":
        raise UserError("no system turn")
    return "".join(f"[{role}]{text}" for role, text in turns) + "[assistant]"


def test_a_template_without_a_system_turn_has_none() -> None:
    found = turn_template(two_roles)
    assert found is not None
    assert "system" not in found.around


def system_in_first_turn(turns: Turns) -> str:
    system = f"<<{turns[0][1]}>>" if turns[0][0] == "system" else ""
    rest = turns[1:] if system else turns
    return "".join(
        f"[INST] {system if index == 0 else ''}{text} [/INST]" if role == "user" else f" {text}</s>"
        for index, (role, text) in enumerate(rest)
    )


def numbered(turns: Turns) -> str:
    return "".join(f"{index}: {text}\n" for index, (_, text) in enumerate(turns))


@pytest.mark.parametrize("render", [numbered, lambda turns: turns[-1][1]])
def test_what_is_more_than_turns_is_not_written(render: Any) -> None:
    assert turn_template(render) is None


def test_a_system_text_within_the_first_turn_is_written_around_it() -> None:
    found = turn_template(system_in_first_turn)
    # Either it is not written, or as the template writes it.
    assert found is None or all(found.rendered(turns) == system_in_first_turn(turns) for turns in CONVERSATIONS)


def test_the_file_asks_as_the_training_did(tiny_tokenizer: Any) -> None:
    prompting = Prompting("chat", system="Be brief.", end_tokens=(EndToken(3, "<|im_end|>"),))
    text, remarks = modelfile("./model.gguf", tiny_tokenizer, prompting)
    assert not remarks
    assert '{{ if eq .Role "user" }}{{ "<|im_start|>user\\n" }}{{ .Content }}{{ "<|im_end|>\\n" }}' in text
    assert text.endswith('PARAMETER stop "<|im_end|>"\nSYSTEM "Be brief."\n')
