"""A row is put into the form that its template takes: text or parts, objects or JSON text, wrapped or bare."""

import json
import pickle
from typing import Any

import pytest

from lodos.data.text.chat import ChatTemplate

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEXT_ONLY = TURN + "{{ m.content | trim }}" + END
CONCATENATED = TURN + "{{ m.content + '' }}" + END
PARTS_ONLY = TURN + "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}" + END
BOTH = (
    TURN
    + "{% if m.content is string %}{{ m.content }}{% else %}"
    + ("{% for part in m.content %}{{ '[' + part.text + ']' }}{% endfor %}{% endif %}" + END)
)
FIRST_PART = TURN + "{{ m.content if m.content is string else m.content[0].text }}" + END
USERS_PARTS = TURN + (
    "{% if m.role == 'user' %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}" + END
)

PARTS = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]


def _said(tokenizer: Any, template: str, role: str, content: Any) -> str:
    chat = ChatTemplate(tokenizer, template)
    messages, _ = chat.fitted([{"role": role, "content": content}])
    return chat.render(messages).split("\n")[1].removesuffix("<|im_end|>")


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_parts_are_joined_for_a_template_that_takes_text(tokenizer: Any, role: str) -> None:
    for template in (TEXT_ONLY, CONCATENATED, PARTS_ONLY, USERS_PARTS, FIRST_PART):
        assert _said(tokenizer, template, role, PARTS) == "Hi there"
        assert _said(tokenizer, template, role, "Hi there") == "Hi there"
    assert _said(tokenizer, BOTH, role, PARTS) == "[Hi ][there]"  # it has a way of its own
    assert _said(tokenizer, BOTH, role, "Hi there") == "Hi there"


CALLED = TURN + "{{ m.content or '' }}{% for c in m.tool_calls or [] %}CALL{% endfor %}" + END
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"größe": ['"', 1.5, None]}}}
WRITES = {
    "as JSON": """{{ c.function.name + ' ' + (c.function.arguments | tojson) }}""",
    "as it is": """{{ c.function.name + ' ' + c.function.arguments }}""",
    "as it is, with a tilde": """{{ c.function.name ~ ' ' ~ c.function.arguments }}""",
    "either": """{{ c.function.name + ' ' + (c.function.arguments if c.function.arguments is string else """
    """c.function.arguments | tojson) }}""",
    "bare": """{{ c.name + ' ' + (c.arguments | tojson) }}""",
    "bare, as it is": """{{ c.name + ' ' + c.arguments }}""",
    "wrapped or bare": """{% set c = c.function or c %}{{ c.name + ' ' + (c.arguments | tojson) }}""",
}


@pytest.mark.parametrize("name", WRITES)
def test_arguments_are_written_as_json_and_once(tokenizer: Any, name: str) -> None:
    chat = ChatTemplate(tokenizer, CALLED.replace("CALL", WRITES[name]))
    messages, _ = chat.fitted([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [CALL]}])
    expected = "f " + json.dumps(CALL["function"]["arguments"], ensure_ascii=False)
    assert chat.render(messages).endswith(f"assistant\n{expected}<|im_end|>\n")


def test_content_that_a_template_cannot_do_without_is_empty(tokenizer: Any) -> None:
    template = CALLED.replace("m.content or ''", "'' + m.content").replace("CALL", WRITES["as JSON"])
    chat = ChatTemplate(tokenizer, template)
    messages, _ = chat.fitted([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [CALL]}])
    assert chat.render(messages).count("größe") == 1


@pytest.mark.parametrize(
    "template", ["{{ t.function.name }}", "{{ t.name }}", "{% set t = t.function or t %}{{ t.name }}"]
)
def test_tools_are_wrapped_or_bare_as_the_template_takes_them(tokenizer: Any, template: str) -> None:
    chat = ChatTemplate(tokenizer, "{% for t in tools or [] %}" + template + "{% endfor %}" + TEXT_ONLY)
    bare = {"name": "weather", "description": "d", "parameters": {}}
    for tool in (bare, {"type": "function", "function": bare}):
        messages, tools = chat.fitted([{"role": "user", "content": "a"}], [tool])
        assert chat.render(messages, tools).startswith("weather<|im_start|>")


def test_what_was_found_out_goes_along_to_workers(tokenizer: Any) -> None:
    chat = ChatTemplate(tokenizer, PARTS_ONLY)
    talk = [{"role": "user", "content": "a"}]
    before = chat.fitted(talk)
    assert pickle.loads(pickle.dumps(chat)).fitted(talk) == before != (talk, None)
