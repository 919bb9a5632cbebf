"""What a row says is found in what a template writes of it, in whichever form; and what is lost is named."""

import json
from typing import Any

import pytest

from lodos.data.reading.rows import DroppedTextError, Row, RowError
from lodos.data.text.chat import ChatTemplate
from lodos.data.text.formats import ChatFormat

# Knows system, user, assistant and tool turns, thinking, calls and tools.
ALL = (
    "{%- for t in tools or [] %}{{ '<tool>' + (t | tojson) + '</tool>' }}{% endfor %}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{- m.content }}"
    "{%- for c in m.tool_calls or [] %}"
    """{{- '<call>{"name": "' + c.function.name + '", "arguments": ' """
    "+ (c.function.arguments | tojson) + '}</call>' }}"
    "{%- endfor %}{{ '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTENT = "{{- m.content }}"
THINKING = (
    r"{%- if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}".replace(
        r"\n", "\n"
    )
)
CALLS = "m.tool_calls or []"
TOOL = "(t | tojson)"

CALL = {
    "type": "function",
    "function": {"name": "stock", "arguments": {"item": "screws", "floors": [1, 2], "old": False}},
}
AGAIN = {"type": "function", "function": {"name": "stock", "arguments": {"item": "nails", "floors": [], "old": True}}}
PARAMETERS = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "description": "What's looked for", "enum": ["screws", "nails"]},
        "floors": {"type": "array", "items": {"type": "integer"}},
        "old": {"type": "boolean"},
    },
    "required": ["item"],
}
TOOLS = [
    {"type": "function", "function": {"name": "stock", "description": "Counts <boxes>", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "order", "description": "Buys more", "parameters": {}}},
]
TALK = [
    {"role": "system", "content": "You keep the store.\n  Be brief & kind."},
    {"role": "user", "content": "How many boxes are left? 41?"},
    {"role": "assistant", "reasoning_content": "I look it up.", "content": "Let me see. ", "tool_calls": [CALL, AGAIN]},
    {"role": "tool", "content": '{"screws": 41}'},
    {"role": "tool", "content": "41"},
    {"role": "assistant", "content": "41 and 41, 'each' \"way\": 82 äöü 🙂."},
]


@pytest.fixture
def missing(tokenizer: Any) -> Any:
    """`missing(template, talk, tools)`: the names of what is left out."""

    def of(template: str, talk: Any = TALK, tools: Any = TOOLS, **options: Any) -> list[str]:
        chat = ChatTemplate(tokenizer, template)
        messages, fitted_tools = chat.fitted(talk, tools)
        made = chat.rendering(messages, fitted_tools, **options)
        return [each.name for each in chat.left_out(messages, fitted_tools, made)]

    return of


def _with(old: str, new: str) -> str:
    assert old in ALL
    return ALL.replace(old, new)


HARMLESS = {
    "as it is": ALL,
    "trimmed": _with(CONTENT, "{{- m.content | trim }}"),
    "as JSON": _with(CONTENT, "{{- m.content | tojson }}"),
    "as ASCII JSON": _with(CONTENT, "{{- m.content | tojson(ensure_ascii=True) }}"),
    "as JSON within JSON": _with(CONTENT, "{{- {'content': {'result': m.content} | tojson} | tojson }}"),
    "as HTML": _with(CONTENT, "{{- m.content | e }}"),
    "as Python": _with(CONTENT, "{{- [m.content] }}"),
    "in capitals": _with(CONTENT, "{{- m.content | upper }}"),
    "with a capital": _with(CONTENT, "{{- m.content | capitalize }}"),
    "indented": _with(CONTENT, "{{- m.content | indent(4, true) }}"),
    "on one line": _with(CONTENT, "{{- m.content.split() | join(' ') }}"),
    "other line ends": _with(CONTENT, "{{- m.content | replace('\n', '<n>') }}"),
    "wrapped": _with(CONTENT, "{{- m.content | wordwrap(12) }}"),
    "tools as JSON with indentation": _with(TOOL, "(t | tojson(indent=4))"),
    "tools as the function alone": _with(TOOL, "(t.function | tojson)"),
    "tools as Python": _with(TOOL, "(t | string)"),
    "tools with other words": _with(
        TOOL,
        "t.function.name ~ '(' ~ t.function.description ~ ')' ~ (t.function.parameters | tojson(sort_keys=True))",
    ),
    "tools as TypeScript": _with(
        TOOL,
        "('// ' ~ t.function.description ~ '\ntype ' ~ t.function.name ~ ' = '"
        ") }}{% for k, p in (t.function.parameters.properties or {}).items() %}"
        "{{ '// ' ~ (p.description or '') ~ '\n' ~ k ~ ('' if k in t.function.parameters.required else '?') ~ ': ' ~ "
        """('number' if p.type == 'integer' else '"' ~ (p.enum | join('" | "')) ~ '"' if p.enum else p.type) }}"""
        "{% endfor %}{{ ''",
    ),
    "calls as Python": _with(
        """'<call>{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + '}</call>'""",
        "'[' ~ c.function.name ~ '(' }}{% for k, v in c.function.arguments.items() %}{{ k ~ '=' ~ v ~ ', ' }}"
        "{% endfor %}{{ ')]'",
    ),
    "calls as XML": _with(
        "(c.function.arguments | tojson)",
        "'' }}{% for k, v in c.function.arguments.items() %}{{ '<parameter=' ~ k ~ '>' ~ (v if v is string else v | "
        "tojson) ~ '</parameter>' }}{% endfor %}{{ ''",
    ),
    "keys sorted": _with("(c.function.arguments | tojson)", "(c.function.arguments | tojson(sort_keys=True))"),
    "what depends on how it begins": _with(
        CONTENT, "{{- ('number: ' if m.content[0] in '0123456789' else '') ~ m.content }}"
    ),
    "what depends on its length": _with(CONTENT, "{{- m.content | length ~ ' characters: ' ~ m.content }}"),
    "what depends on a word": _with(CONTENT, "{{- ('how' if 'How many' in m.content else '') ~ m.content }}"),
    "what depends on the whole": _with(CONTENT, "{{- ('answer: ' if m.content == '41' else '') ~ m.content }}"),
    "what depends on an argument": _with(
        "'<call>{", "('once ' if c.function.arguments.item == 'nails' else '') + '<call>{"
    ),
    "said twice": _with(CONTENT, "{{- m.content ~ ' (' ~ m.content ~ ')' }}"),
    "roles in capitals": _with("m.role +", "(m.role | upper) +").replace("assistant\n", "ASSISTANT\n"),
    "tools after the first turn": _with(
        "{%- for t in tools or [] %}{{ '<tool>' + (t | tojson) + '</tool>' }}{% endfor %}", ""
    ).replace("{{ '<|im_end|>\n' }}", "{{ (tools | tojson) if loop.first }}{{ '<|im_end|>\n' }}"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_another_form_of_a_text_is_the_text(missing: Any, name: str) -> None:
    assert missing(HARMLESS[name]) == []


LOSSES = {
    "the system turn": (
        "{%- for m in messages %}",
        "{%- for m in messages if m.role != 'system' %}",
        ["messages[0].content"],
    ),
    "the results of tools": (
        "{%- for m in messages %}",
        "{%- for m in messages if m.role != 'tool' %}",
        ["messages[3].content", "messages[4].content"],
    ),
    "what stands elsewhere": (CONTENT, "{{- m.content if m.content != '41' else '' }}", ["messages[4].content"]),
    "thinking": (THINKING, "", ["messages[2].reasoning_content"]),
    "the text beside a call": (CONTENT, "{{- m.content if not m.tool_calls }}", ["messages[2].content"]),
    "the second call": (
        CALLS,
        "(m.tool_calls or [])[:1]",
        ["messages[2].tool_calls[1].function.name"],
    ),
    "all but the name of a call": (
        "(c.function.arguments | tojson)",
        "'{}'",
        ["messages[2].tool_calls[0].function.arguments.item"],
    ),
    "a value of a call": (
        "(c.function.arguments | tojson)",
        "(c.function.arguments.items() | rejectattr(0, 'equalto', 'item') | list | string)",
        ["messages[2].tool_calls[0].function.arguments.item"],
    ),
    "descriptions of tools": (
        TOOL,
        "(t.function.name ~ (t.function.parameters | tojson))",
        ["tools[0].function.description", "tools[1].function.description"],
    ),
    "parameters of tools": (
        TOOL,
        "(t.function.name ~ t.function.description)",
        ["tools[0].function.parameters.properties.item"],
    ),
    "all but the names of tools": (TOOL, "t.function.name", ["tools[0].function.description"]),
    "the second tool": ("tools or []", "(tools or [])[:1]", ["tools[1].function.name"]),
    "all tools": ("{%- for t in tools or [] %}", "{%- for t in [] %}", ["tools[0].function.name"]),
    "the end of a text": (
        CONTENT,
        "{{- m.content[:20] }}",
        ["messages[0].content", "messages[1].content", "messages[5].content"],
    ),
    "a long text": (
        CONTENT,
        "{{- m.content | truncate(15) }}",
        ["messages[0].content", "messages[1].content", "messages[5].content"],
    ),
    "the beginning of a text": (CONTENT, "{{- m.content.split('. ')[-1] }}", ["messages[2].content"]),
    "the order of words": (
        CONTENT,
        "{{- m.content.split() | reverse | join(' ') }}",
        [f"messages[{i}].content" for i in (0, 1, 2, 3, 5)],
    ),
    "a word": (CONTENT, "{{- m.content | replace('boxes', '') }}", ["messages[1].content"]),
    "the first line": (CONTENT, "{{- m.content.split('\n')[-1] }}", ["messages[0].content"]),
    "all white space": (CONTENT, "{{- m.content.split() | join }}", ["messages[1].content"]),
    "all that is not ASCII": (CONTENT, "{{- m.content | replace('äöü', '?') }}", ["messages[5].content"]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_lost_is_named(missing: Any, name: str) -> None:
    old, new, names = LOSSES[name]
    found = missing(_with(old, new))
    assert set(names) <= set(found)
    if not name.startswith(("all", "the second", "parameters", "a value")):
        assert found == names


def test_texts_that_are_alike_are_each_there(missing: Any) -> None:
    once = _with("{%- for m in messages %}", "{%- for m in messages %}{%- if loop.changed(m.role, m.content) %}")
    once = once.replace("{%- endfor %}{%- if add", "{%- endif %}{%- endfor %}{%- if add")
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi"},
    ]
    assert missing(ALL, talk, None) == []
    assert missing(once, talk[:3] + talk[4:], None) == []
    assert missing(once, talk, None) == ["messages[3].content"]


def test_a_text_of_tags_alone_is_looked_for(missing: Any) -> None:
    without_system = _with("{%- for m in messages %}", "{%- for m in messages if m.role != 'system' %}")
    for text in ("<|im_end|>", "<think>", " <think>\n</think> "):
        talk = [{"role": "system", "content": text}, *TALK[1:2], {"role": "assistant", "content": "41."}]
        assert missing(ALL, talk, None) == []
        assert missing(without_system, talk, None) == ["messages[0].content"]


def test_the_error_says_where_and_what(tokenizer: Any) -> None:
    chat = ChatTemplate(tokenizer, _with(CONTENT, "{{- m.content | replace(' 41?', '') }}"))
    with pytest.raises(DroppedTextError) as error:
        ChatFormat(chat).example(Row("a.jsonl", 3, {"messages": TALK, "tools": TOOLS}))
    assert (
        str(error.value)
        == "a.jsonl, row 3: messages[1].content is left out by the chat template: 'How many boxes are left? 41?'."
    )
    kept = ChatFormat(chat, on_dropped_text="warn").example(Row("a.jsonl", 3, {"messages": TALK, "tools": TOOLS}))
    assert kept.left_out == ("messages[1].content is left out by the chat template: 'How many boxes are left? 41?'.",)


SPLITS = _with(
    CONTENT,
    "{%- set text = m.content %}{%- set thought = '' %}"
    "{%- if m.role == 'assistant' and '</think>' in text %}"
    "{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{%- set text = text.split('</think>')[-1].strip() %}{% endif %}"
    "{{- ('<think>\n' + thought + '\n</think>\n\n' if thought else '') + text }}",
)
THOUGHT = [
    {"role": "user", "content": "17 times 3?"},
    {"role": "assistant", "content": "<think>17 + 17 + 17</think>51"},
    {"role": "user", "content": "and 4?"},
    {"role": "assistant", "content": "<think>51 + 17</think>68"},
]
HIDES = SPLITS.replace("if thought else", "if thought and loop.last else")


def test_thinking_that_is_cut_out_and_put_back_is_there(missing: Any) -> None:
    assert missing(SPLITS, THOUGHT, None) == []
    assert (
        missing(SPLITS.replace("'<think>\n' + thought + '\n</think>", "'[THINK]' + thought + '[/THINK]"), THOUGHT) == []
    )
    # Without anything around it, it is taken for the answer.
    bare = SPLITS.replace("'<think>\n' + thought + '\n</think>\n\n'", "thought + '\n\n'")
    assert missing(bare, THOUGHT) == ["messages[1].content", "messages[3].content"]


def test_thinking_of_an_answer_that_is_trained_must_be_there(missing: Any) -> None:
    never = SPLITS.replace("if thought else", "if false else")
    assert missing(never, THOUGHT[:2], None) == ["messages[1].content"]
    empty = [THOUGHT[0], {"role": "assistant", "content": "<think>\n\n</think>\n\n51"}]
    assert missing(never, empty, None) == ["messages[1].content"]
    assert missing(ALL, empty, None) == []


def test_thinking_of_earlier_turns_may_be_missing_where_they_are_context(missing: Any) -> None:
    assert missing(HIDES, THOUGHT, None, turns="last") == []
    weighted = [THOUGHT[0], {**THOUGHT[1], "weight": 0}, *THOUGHT[2:]]
    assert missing(HIDES, weighted, None) == []
    # What was said is no thinking.
    quiet = HIDES.replace("+ text }}", "+ (text if loop.last or m.role == 'user' else '') }}")
    assert missing(quiet, THOUGHT, None, turns="last") == ["messages[1].content"]
    apart = [THOUGHT[0], {"role": "assistant", "reasoning_content": "17 + 17 + 17", "content": "51"}, *THOUGHT[2:]]
    assert (
        missing(_with("m.reasoning_content %}", "m.reasoning_content and loop.last %}"), apart, None, turns="last")
        == []
    )


def test_a_text_belongs_into_its_turn(missing: Any) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "tool_calls": [CALL]}]
    early = _with("{%- for t in tools", "{{- (messages[-1].tool_calls or []) | tojson }}{%- for t in tools")
    # It is written, but before the conversation, where the model is given it; the turn itself is without it.
    moved = early.replace(CALLS, "[]").replace("{%- if add", "{%- if false and add")
    with pytest.raises(RowError, match="does not go on"):
        missing(moved, talk)
    told = {"role": "user", "content": "Bye"}
    late = _with("{{- m.content }}", "{{- m.content if loop.first or m.role != 'user' else '' }}").replace(
        "{%- if add", "{%- if messages[-1].content == 'Ho' %}{{- messages[-2].content }}{% endif %}{%- if add"
    )
    assert missing(late, [talk[0], told, {"role": "assistant", "content": "Ho"}], turns="last") == [
        "messages[1].content"
    ]


def test_messages_stand_one_after_the_other(missing: Any) -> None:
    talk = [{"role": "user", "content": said} for said in ("one", "two")] + [{"role": "assistant", "content": "three"}]
    assert missing(ALL, talk, None) == []
    swapped = _with("in messages %}", "in messages[:2] | reverse | list + messages[2:] %}")
    assert missing(swapped, talk, None) == ["messages[1].content"]


def test_marks_in_a_row_are_no_marks(missing: Any) -> None:
    odd = [{"role": "user", "content": "a \ufdd2\ufde1\ufdd3 b"}, {"role": "assistant", "content": "c"}]
    assert missing(ALL, odd, None) == []
    silent = _with(CONTENT, "{{- m.content if m.role == 'assistant' else '' }}")
    assert missing(silent, odd, None) == ["messages[0].content"]


def test_arguments_of_every_kind(missing: Any) -> None:
    arguments = {
        "text": "a\nb",
        "number": 3,
        "share": 0.5,
        "whole": 2.0,
        "yes": True,
        "deep": {"list": [1, "1", [True]], "null": [None], "empty": {}, "": "key"},
        "größe": "ß",
    }
    talk = [
        TALK[1],
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]},
    ]
    assert missing(ALL, talk) == []
    for name, value in (("number", 3), ("yes", True), ("share", 0.5)):
        without = _with(
            "(c.function.arguments | tojson)", f"(c.function.arguments | tojson).replace('{json.dumps(value)}', '')"
        )
        assert f"messages[1].tool_calls[0].function.arguments.{name}" in missing(without, talk)


EACH = "'' }}{% for k, v in c.function.arguments.items() %}{{ k ~ '=' ~ (V) ~ ';' }}{% endfor %}{{ ''"
SHORT = [
    # What is dropped is there all the same, within another word, number or key.
    ("the first", {"n": 1, "nn": 12}, "", "(c.function.arguments.items() | list)[1:] | string", ["n"]),
    ("the last of a list", {"n": [1, 12]}, "v | last", None, ["n[0]"]),
    ("the first of a list", {"n": [112, 12, 2]}, "v | first", None, ["n[1]", "n[2]"]),
    ("what comes once more", {"n": [1, 1]}, "v | unique | list", None, ["n[1]"]),
    ("what comes once more", {"n": [True, True, False]}, "v | unique | list", None, ["n[1]"]),
    ("the sign", {"n": 5}, "0 - v", None, ["n"]),
    ("a sign", {"n": -5}, "v | abs", None, ["n"]),
    ("the point", {"n": 5.25}, "v | round(1)", None, ["n"]),
    ("small numbers", {"n": 1, "m1": 15}, "v if v > 1 else ''", None, ["n"]),
    ("another word", {"n": True}, "v ~ 'ish'", None, ["n"]),
    ("a word that is compared", {"n": "n", "kind": "find"}, "v if v != 'n' else ''", None, ["n"]),
    ("a word that is compared", {"say": "yes", "when": "yesterday"}, "v if v != 'yes' else ''", None, ["say"]),
    ("short words", {"to": "to", "for": "total"}, "v if v | length > 2 else ''", None, ["to"]),
    ("nothing", {"n": [1, 12, -1, 1.5], "m": "n", "t": True}, "v", None, []),
]


@pytest.mark.parametrize(("what", "arguments", "value", "whole", "names"), SHORT)
def test_short_words_and_numbers_are_looked_for_whole(
    missing: Any, what: str, arguments: dict[str, Any], value: str, whole: str | None, names: list[str]
) -> None:
    call = {"type": "function", "function": {"name": "find_n", "arguments": arguments}}
    talk = [
        {"role": "user", "content": "Find n of 12 in 1 for n1."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    found = missing(_with("(c.function.arguments | tojson)", whole or EACH.replace("V", value)), talk, None)
    prefix = "messages[1].tool_calls[0].function.arguments."
    assert list(dict.fromkeys(name.removeprefix(prefix) for name in found)) == names


@pytest.mark.parametrize(
    ("dropped", "said"),
    [
        ("m.content not in ('user', 'assistant')", ["user", "Fine.", "assistant", "Done."]),
        ("m.content | length > 1", ["a", "Alas", "s", "Is."]),
        ("m.content != '4'", ["4", "14", "2 + 2?", "4 4"]),
        ("m.content != 'no'", ["no", "Now?", "Note it.", "Known."]),
    ],
)
def test_a_turn_that_is_dropped_is_not_found_in_its_neighbours(missing: Any, dropped: str, said: list[str]) -> None:
    talk = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    lost = [
        f"messages[{i}].content"
        for i, text in enumerate(said)
        if i % 2 == 0 and text in ("user", "assistant", *"as4", "no")
    ]
    assert missing(_with(CONTENT, f"{{{{- m.content if {dropped} else '' }}}}"), talk, None) == lost
    assert missing(ALL, talk, None) == []
