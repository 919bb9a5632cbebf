"""Templates of anybody: the text that transformers gives, or a refusal within seconds."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lodos.prompting import template_text as module
from lodos.prompting.template_text import (
    TemplateBoundsError,
    TemplateError,
    TemplateSyntaxError,
    generation_spans,
    template_text,
)

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "tool_calls": None}]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer


TEMPLATES = {
    "thinking": "{% for m in messages %}{{ m.role }}:{{ m.thinking }}/{{ m.reasoning_content }};{% endfor %}",
    "json": "{{ tools | tojson }}{{ messages | tojson(indent=2) }}",
    "names": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    "{{ dict(a=1) }}{{ bos_token }}{{ eos_token }}{{ documents }}",
    "blocks": "{%- for m in messages %}\n  {% if loop.first %}\n 1\n{% else %}{% continue %}{% endif %}\n{% endfor %}",
    "nulls": "{% for m in messages %}{{ m.keys() | list }}{% endfor %}",
    "prompt": "{% if add_generation_prompt %}ask{% endif %}{% generation %}x{% endgeneration %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_that_of_transformers(tokenizer, name):
    messages = [{"role": "user", "content": "Grüße 🙂 \ud83d"}, {"role": "assistant", "content": "", "thinking": "t"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    for prompt in (False, True):
        expected = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=TEMPLATES[name], add_generation_prompt=prompt, tokenize=False
        )
        found = template_text(tokenizer, messages, tools=tools, template=TEMPLATES[name], add_generation_prompt=prompt)
        assert found == expected


def test_spans_are_what_generation_tags_mark(tokenizer):
    template = "{% for m in messages %}<{% generation %}{{ m.content }}{% endgeneration %}>{% endfor %}"
    assert template_text(tokenizer, CHAT, template=template) == "<Hi><Hello>"
    assert generation_spans(tokenizer, CHAT, template=template) == [(1, 3), (5, 10)]


DOUBLED = "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ %s }}"
HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "power": "{{ 2 ** (2 ** 40) }}",
    "rounding": "{{ 1.5 | round(10 ** 9, 'ceil') }}",
    "repetition": "{{ ('a' * 10 ** 10) | length }}",
    "padding": "{{ messages[0].content.ljust(10 ** 10) }}",
    "format": "{{ '%9999999999d' % 1 }}",
    "fields": "{{ '{:>9999999999}'.format(1) }}",
    "doubled text": DOUBLED % ("'a'", "ns.x ~ ns.x", "ns.x"),
    "list in lists": DOUBLED % ("[1]", "[ns.x, ns.x]", "ns.x | tojson"),
    "batches": "{{ messages | batch(10 ** 10, 'x') | list }}",
    "slices": "{{ messages | slice(10 ** 10) | list }}",
    "bytes": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "output": "{% for a in range(99999) %}" + "a" * 999 + "{% endfor %}",
    "indentation": "{{ messages | tojson(indent=10 ** 9) }}",
}
SHORT = ("repetition", "rounding", "output", "list in lists")


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in HOSTILE]
)
def test_what_goes_beyond_the_bounds_is_refused_within_seconds(tokenizer, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(TemplateError):
        template_text(tokenizer, CHAT, template=HOSTILE[name])
    assert time.monotonic() - start < module.PATIENCE + 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # in KiB
    assert template_text(tokenizer, CHAT, template="{{ messages | length }}") == "2"  # the next one is not harmed


def test_a_template_that_was_refused_is_not_run_again(tokenizer, monkeypatch):
    template = "{{ ('a' * 10 ** 10) | length }}{# again #}"
    with pytest.raises(TemplateBoundsError, match="memory"):
        template_text(tokenizer, CHAT, template=template)
    monkeypatch.setattr(module._Process, "_answer", lambda *_: pytest.fail("it is run"))
    with pytest.raises(TemplateBoundsError, match="memory"):
        template_text(tokenizer, CHAT, template=template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace(__class__=1) }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception('no system turn') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    ],
)
def test_what_reaches_further_is_refused(tokenizer, template):
    with pytest.raises(TemplateError):
        template_text(tokenizer, CHAT, template=template)


def test_a_syntax_error_says_its_line(tokenizer):
    with pytest.raises(TemplateSyntaxError) as caught:
        template_text(tokenizer, CHAT, template="\n\n{% if %}")
    assert caught.value.line == 3


def test_the_process_has_no_environment_and_opens_no_file(tokenizer):
    template_text(tokenizer, CHAT, template="a")
    process = module._process()._running
    assert process is not None
    assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (0, 0)
    assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == (0, 0)


def test_a_process_that_was_killed_is_started_again(tokenizer):
    template_text(tokenizer, CHAT, template="a")
    process = module._process()._running
    assert process is not None
    os.kill(process.pid, 15)
    process.wait()
    assert template_text(tokenizer, CHAT, template="b") == "b"


def test_it_ends_with_whoever_started_it(tmp_path):
    program = (
        "import os, sys; from lodos.prompting import template_text as t; p = t._process(); p._start(); "
        "print(p._running.pid, flush=True); os._exit(0)"
    )
    pid = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
