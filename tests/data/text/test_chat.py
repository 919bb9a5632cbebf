"""The assistant's words are trained, each turn to its end, with templates of the real world; or the row is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodos.data.examples import TextExample, TokenizedExample
from lodos.data.reading.rows import RowError
from lodos.data.text.chat import ChatTemplate
from lodos.data.tokens.tokenize import tokenize_examples
from lodos.errors import UserError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CHATML_TAGGED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# As Llama 3.1 Instruct has it: BOS in the template, contents trimmed.
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# As Mistral 7B Instruct v0.1 has it: no generation prompt, an exception for turns out of order.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)

# As Gemma has it: the assistant is called model, contents trimmed, and the turn's end is not EOS.
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# As Qwen3 has it: thinking goes out of every turn that a question follows, and into the last one even when it is empty.
QWEN3 = (
    "{%- if tools %}{{- '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}"
    "{%- set ns = namespace(last_query=-1) %}"
    "{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last_query = loop.index0 %}{% endif %}"
    "{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' %}"
    "{%- set content = message.content %}{%- set thinking = '' %}"
    "{%- if '</think>' in content %}"
    "{%- set thinking = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last_query and (loop.last or thinking) %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thinking + '\n</think>\n\n' + content }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}"
    "{%- for call in message.tool_calls or [] %}{{- '\n<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# As SmolLM3 has it: the tags take in the header, which the generation prompt gives, and the newline after the end.
TAGGED_WITH_HEADER = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}<|im_start|>assistant\n{{ message['content'] }}<|im_end|>\n{% endgeneration %}"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]

EVERY = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "tagged": CHATML_TAGGED}


Spans = Callable[..., list[str]]


@pytest.fixture
def said(tokenizer: Any) -> Spans:
    """`said(template, messages, tools, turns=...)`: the trained texts."""

    def of(template: str, messages: Any, tools: Any = None, **options: Any) -> list[str]:
        made = ChatTemplate(tokenizer, template).rendering(messages, tools, where="a.jsonl, row 3", **options)
        return [made.text[start:end] for start, end in made.trained]

    return of


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["Hello!<|im_end|>", "See you.<|im_end|>"]),
        (CHATML_TAGGED, ["Hello!<|im_end|>", "See you.<|im_end|>"]),
        (LLAMA3, ["Hello!<|eot_id|>", "See you.<|eot_id|>"]),
        (MISTRAL, [" Hello!</s>", " See you.</s>"]),
        (GEMMA, ["Hello!<end_of_turn>", "See you.<end_of_turn>"]),
        (TAGGED_WITH_HEADER, ["Hello!<|im_end|>\n", "See you.<|im_end|>\n"]),
    ],
)
def test_turns_are_trained_to_their_end(said: Spans, template: str, expected: list[str]) -> None:
    assert said(template, TALK) == expected
    assert said(template, TALK, turns="last") == expected[-1:]


def test_the_last_turn_is_the_assistants_though_a_user_speaks_after(said: Spans) -> None:
    assert said(CHATML, TALK[:3], turns="last") == said(CHATML, TALK[:3]) == ["Hello!<|im_end|>"]


def test_system_turns_and_turns_in_a_row_pass_through(said: Spans) -> None:
    talk = [{"role": "system", "content": "Be brief."}, *TALK[:2], {"role": "assistant", "content": "And you?"}]
    assert said(CHATML, talk) == ["Hello!<|im_end|>", "And you?<|im_end|>"]


def test_without_an_end_token_white_space_ends_the_turn(said: Spans) -> None:
    plain = (
        "{% for m in messages %}{{ '### ' + m['role'] + '\n' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
    )
    assert said(plain, TALK) == ["Hello!\n\n", "See you.\n\n"]


def test_tool_calls_are_trained_and_their_results_are_not(said: Spans) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    talk = [
        {"role": "user", "content": "Is it cold?"},
        {"role": "assistant", "content": "<think>\nAsk.\n</think>\n\n", "tool_calls": [call]},
        {"role": "tool", "content": "-3"},
        {"role": "assistant", "content": "Yes."},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {}}}]
    asked, told = said(QWEN3, talk, tools)
    assert asked == (
        '<think>\nAsk.\n</think>\n\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
        "<|im_end|>"
    )
    assert told == "<think>\n\n</think>\n\nYes.<|im_end|>"


def test_the_tools_reach_the_template(said: Spans, tokenizer: Any) -> None:
    listing = "{% for tool in tools or [] %}{{ tool.name }};{% endfor %}" + CHATML
    text = ChatTemplate(tokenizer, listing).rendering(TALK, [{"name": "weather"}, {"name": "time"}]).text
    assert text.startswith("weather;time;<|im_start|>user")
    assert said(listing, TALK, [{"name": "weather"}]) == ["Hello!<|im_end|>", "See you.<|im_end|>"]


THINKING = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"},
]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_what_differs(said: Spans) -> None:
    with pytest.raises(RowError) as error:
        said(QWEN3, THINKING)
    assert str(error.value) == (
        "a.jsonl, row 3: messages[1] is rewritten by the chat template when more turns follow: after "
        r"""'er\n1+1?<|im_end|>\n<|im_start|>assistant\n' it has '<think>\neasy\n</think>\n\n2<|im_end|>\n', """
        r"""then '2<|im_end|>\n<|im_start|>user\n2+2?<|im_en ...'. """
        "Set train_on_turns to last, or give a chat_template that leaves earlier turns as they are."
    )
    # Without any thinking, too: the empty block of the last turn is not there when another follows.
    with pytest.raises(RowError, match=r"messages\[1\] is rewritten"):
        said(QWEN3, TALK)


def test_the_last_turn_of_such_a_template_can_be_trained(said: Spans) -> None:
    assert said(QWEN3, THINKING, turns="last") == ["<think>\nhm\n</think>\n\n4<|im_end|>"]
    assert said(QWEN3, THINKING[:2]) == ["<think>\neasy\n</think>\n\n2<|im_end|>"]


def test_a_generation_prompt_that_the_turn_does_not_begin_with_is_refused(said: Spans) -> None:
    # DeepSeek-R1's way: the model is given <think>, the conversation has none.
    opened = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(RowError, match=r"messages\[1\] does not go on from .* it has '<think>\\n', then 'Hello!"):
        said(opened, TALK)


def test_what_the_template_refuses_is_a_row_error(said: Spans) -> None:
    with pytest.raises(RowError, match=r"row 3: messages are refused by the chat template: .*must alternate"):
        said(MISTRAL, [TALK[0], *TALK])
    with pytest.raises(RowError, match=r"row 3: messages are refused by the chat template: can only concatenate str"):
        said(LLAMA3.replace("| trim", "+ 1"), TALK)


def test_a_turn_of_which_nothing_is_written_is_refused(said: Spans) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    with pytest.raises(RowError, match=r"messages\[1\] is left out by the chat template, or all that it says"):
        said(LLAMA3, [TALK[0], {"role": "assistant", "tool_calls": [call]}])


def test_messages_that_are_weighted_0_are_context(said: Spans) -> None:
    talk = [TALK[0], {**TALK[1], "weight": 0}, TALK[2], {**TALK[3], "train": True}]
    assert said(CHATML, talk) == said(CHATML, talk, turns="last") == ["See you.<|im_end|>"]
    assert said(CHATML, [TALK[0], {**TALK[1], "trainable": False}, *TALK[2:]]) == ["See you.<|im_end|>"]
    # What is not trained may be rewritten, may be empty and may come first.
    begun = [{"role": "assistant", "content": " ", "weight": 0}, *TALK]
    assert said(CHATML, begun) == ["Hello!<|im_end|>", "See you.<|im_end|>"]
    assert said(QWEN3, [THINKING[0], {**THINKING[1], "weight": 0}, *THINKING[2:]]) == [
        "<think>\nhm\n</think>\n\n4<|im_end|>"
    ]
    for untrained, options in (([0, 0], {}), ([1, 0], {"turns": "last"})):
        weighted = [TALK[0], {**TALK[1], "weight": untrained[0]}, TALK[2], {**TALK[3], "weight": untrained[1]}]
        with pytest.raises(RowError, match=r"have nothing to train: .* weighted 0"):
            said(CHATML, weighted, **options)


def test_the_template_never_sees_weights(tokenizer: Any) -> None:
    listing = "{% for m in messages %}{{ m | tojson }}<|im_end|>{% endfor %}"
    talk = [TALK[0], {**TALK[1], "weight": 1, "train": True}]
    assert ChatTemplate(tokenizer, listing).render(talk) == ChatTemplate(tokenizer, listing).render(TALK[:2])


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (TALK[:1], "have no turn of the assistant"),
        (TALK[1:], r"messages\[0\] is the assistant's: it answers nothing"),
        ([TALK[0], {"role": "assistant", "content": " \n"}], r"messages\[1\] is the assistant's and empty"),
        ([TALK[0], {"role": "assistant", "content": "\ud83d"}], "half a surrogate pair"),
    ],
)
def test_what_cannot_be_trained_is_refused(said: Spans, messages: Any, says: str) -> None:
    with pytest.raises(RowError, match=says):
        said(CHATML, messages)


def test_a_turn_that_the_template_leaves_out_is_refused(said: Spans) -> None:
    quiet = CHATML.replace("{% for message in messages %}", "{% for message in messages if message.content != 'no' %}")
    silent = quiet.replace("<|im_start|>assistant\n{% endif %}", "{% endif %}")
    with pytest.raises(RowError, match=r"messages\[1\] is left out by the chat template"):
        said(silent, [TALK[0], {"role": "assistant", "content": "no"}])


def test_tags_may_narrow_a_turn_but_never_drop_its_end(said: Spans) -> None:
    # The thinking is not to be trained; the tag's author forgot the end.
    tagged = CHATML_TAGGED.replace(
        "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}",
        "<think>hm</think>{% generation %}{{ message['content'] }}{% endgeneration %}<|im_end|>",
    )
    assert said(tagged, TALK) == ["Hello!<|im_end|>", "See you.<|im_end|>"]
    with pytest.raises(RowError, match=r"marks none"):
        said(tagged.replace("== 'assistant' %}", "== 'nobody' %}"), TALK)


_TEXTS = st.text(alphabet="ab é\n", min_size=1, max_size=6).filter(str.strip)
_TURNS = st.lists(st.tuples(_TEXTS, _TEXTS), min_size=1, max_size=3)


def _tokens(tokenizer: Any, template: str | None, talk: Any, turns: Any = "all") -> TokenizedExample:
    made = ChatTemplate(tokenizer, template).rendering(talk, turns=turns)
    example = TextExample("a.jsonl", 1, made.text, made.trained, has_special_tokens=True)
    (tokens,) = tokenize_examples([example], tokenizer, max_length=10_000)
    assert isinstance(tokens, TokenizedExample)
    return tokens


def _talk(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for pair in turns
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


@given(turns=_TURNS)
@settings(deadline=None, max_examples=50)
@pytest.mark.parametrize("template", [CHATML_TAGGED, TAGGED_WITH_HEADER])
def test_tokens_and_masks_are_those_of_generation_tags(
    tokenizer: Any, template: str, turns: list[tuple[str, str]]
) -> None:
    theirs = tokenizer.apply_chat_template(
        _talk(turns), chat_template=template, return_assistant_tokens_mask=True, return_dict=True
    )
    ours = _tokens(tokenizer, template, _talk(turns))
    assert ours.ids.tolist() == theirs["input_ids"]
    if template == CHATML_TAGGED:  # the other's tags begin before the turn does
        assert ours.trained.tolist() == [bool(mask) for mask in theirs["assistant_masks"]]
        untagged = _tokens(tokenizer, CHATML, _talk(turns))
        assert (untagged.ids.tolist(), untagged.trained.tolist()) == (ours.ids.tolist(), ours.trained.tolist())


@given(turns=_TURNS)
@settings(deadline=None, max_examples=50)
@pytest.mark.parametrize("name", EVERY)
def test_ids_are_those_of_apply_chat_template_and_the_answers_are_trained(
    tokenizer: Any, name: str, turns: list[tuple[str, str]]
) -> None:
    talk = _talk(turns)
    ours = _tokens(tokenizer, EVERY[name], talk)
    assert ours.ids.tolist() == tokenizer.apply_chat_template(talk, chat_template=EVERY[name])["input_ids"]
    assert ours.ids.tolist().count(tokenizer.bos_token_id) == EVERY[name].count("bos_token")
    # Told without spans or offsets: trained tokens read as the answers, one end after each.
    trimmed = [answer.strip() if "trim" in EVERY[name] else answer for _, answer in turns]
    end = {"llama3": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>"}.get(name, "<|im_end|>")
    space = " " if name == "mistral" else ""
    assert tokenizer.decode(ours.ids[ours.trained]) == "".join(f"{space}{answer}{end}" for answer in trimmed)
    last = _tokens(tokenizer, EVERY[name], talk, "last")
    assert last.ids.tolist() == ours.ids.tolist()
    assert tokenizer.decode(last.ids[last.trained]) == f"{space}{trimmed[-1]}{end}"


def test_a_real_models_own_template(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    ours = _tokens(tokenizer, None, TALK)
    assert ours.ids.tolist() == tokenizer.apply_chat_template(TALK)["input_ids"]
    assert tokenizer.decode(ours.ids[ours.trained]) == "Hello!<|im_end|>See you.<|im_end|>"


def test_special_tokens_of_the_messages_are_told_from_the_templates(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer, LLAMA3)
    talk = [
        {"role": "user", "content": "  What is <|eot_id|>, or <s>?"},
        {"role": "assistant", "content": "The end: <|eot_id|>"},
    ]
    text = template.rendering(talk).text
    spans = template.special_tokens_of_row(talk, None, text)
    assert [text[start:end] for start, end in spans] == ["<|eot_id|>", "<s>", "<|eot_id|>"]
    assert [text[start - 2 : start] for start, _ in spans] == ["s ", "r ", ": "]
    assert template.special_tokens_of_row(TALK, None, template.render(TALK)) == ()


def test_special_tokens_whose_place_cannot_be_told_are_refused(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer, CHATML.replace("message['content']", "message['content'].split('<s>') | last"))
    talk = [{"role": "user", "content": "a <s> b"}, TALK[1]]
    with pytest.raises(RowError, match=r"spell special tokens \(<s>\) that the chat template treats"):
        template.special_tokens_of_row(talk, None, template.render(talk))


def test_templates_come_from_the_tokenizer_a_file_or_a_text(
    tokenizer: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "t.jinja").write_text(GEMMA)
    assert ChatTemplate(tokenizer, str(tmp_path / "t.jinja")).render(TALK) == ChatTemplate(tokenizer, GEMMA).render(
        TALK
    )
    assert ChatTemplate(tiny_tokenizer).render(TALK) == ChatTemplate(tiny_tokenizer, CHATML).render(TALK)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "the tokenizer has none"),
        ("no/such.jinja", r"no/such.jinja: there is no such file.*has \{\{ or \{%"),
        ("memory://a/b.jinja", r"memory://a/b.jinja: there is no such file"),
        ("{% for m in messages %}{{ m", "not valid Jinja, line 1"),
        ("{% endfor %}", "not valid Jinja"),
    ],
)
def test_bad_templates_are_refused(tokenizer: Any, template: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ChatTemplate(tokenizer, template)


def test_it_can_be_sent_to_a_worker(tokenizer: Any) -> None:
    template = pickle.loads(pickle.dumps(ChatTemplate(tokenizer, LLAMA3)))
    assert template.rendering(TALK) == ChatTemplate(tokenizer, LLAMA3).rendering(TALK)


THINKS_IF_ASKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and think is defined and not think %}<none>\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if think is defined and not think %}<none>\n{% endif %}{% endif %}"
)


def test_a_template_is_given_its_variables(tokenizer: Any) -> None:
    unset, no = (
        ChatTemplate(tokenizer, THINKS_IF_ASKED),
        ChatTemplate(tokenizer, THINKS_IF_ASKED, variables={"think": False}),
    )
    assert "<none>" not in unset.rendering(TALK).text
    said = no.rendering(TALK)
    trained = [said.text[start:end] for start, end in said.trained]
    assert trained == ["Hello!<|im_end|>", "See you.<|im_end|>"]  # what goes before is given by the generation prompt
    assert said.text.count("assistant\n<none>\n") == 2
    assert unset.given({"think": False}).rendering(TALK) == said
    assert no.given({"think": True}).rendering(TALK) == unset.rendering(TALK)
    assert no.given({"think": False}).rendering(TALK) == said


def test_a_variable_that_a_template_does_not_ask_for_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="chat_template_kwargs: thinks: the chat template asks for no such variable"):
        ChatTemplate(tokenizer, THINKS_IF_ASKED, variables={"thinks": False})
    with pytest.raises(RowError, match=r"a\.json, row 1: chat_template_kwargs thinks: the chat template asks for no"):
        ChatTemplate(tokenizer, THINKS_IF_ASKED).given({"thinks": False}, "a.json, row 1")
    with pytest.raises(RowError, match="chat_template_kwargs tools is no variable of a template's own"):
        ChatTemplate(tokenizer, THINKS_IF_ASKED).given({"tools": []}, "a.json, row 1")
