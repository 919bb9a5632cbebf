"""Templates made at random of what takes time, memory or text, and of ways to Python's inside: text or a refusal."""

import os
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodos.prompting import template_text as module
from lodos.prompting.template_text import TemplateBoundsError, TemplateError, template_text

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "name": "x.y-z"}]
CANARY = "canaryOfTheEnvironment"
DUNDERS = ("__class__", "__globals__", "__init__", "__mro__", "__subclasses__", "__dict__", "__code__", "__builtins__")


def number(choice: random.Random) -> str:
    few, many = choice.randrange(4), choice.choice([30, 10**3, 99_999, 10**6, 10**9, 2**63, 10**30])
    return choice.choice([str(few), str(many), f"{few} ** {many}", f"-{many}", "1.5", "1e308", f"(9 ** 99 ** {few})"])


def holder(choice: random.Random) -> str:
    """Something that may lead to Python's own objects."""
    return choice.choice(
        [
            "messages", "''", "self", "cycler", "joiner()", "namespace()", "lipsum", "dict", "loop", "range", "true",
            "raise_exception", "strftime_now", "(1).real", "messages[0].items", "caller", "varargs", "none", "tools",
        ]
    )  # fmt: skip


def text(choice: random.Random, depth: int = 3) -> str:
    """An expression that is a text, if it is let."""
    if not depth or choice.random() < 0.2:
        return choice.choice(["'a'", "'a b\\n'", "messages[0].content", "'%s'", "'{:>9}'", "bos_token", "'<&>'"])
    inner, n = text(choice, depth - 1), number(choice)
    forms = [
        "({0} * {1})", "({0} ~ {0} ~ {0})", "{0}.ljust({1})", "{0}.center({1}, 'x')", "{0}.zfill({1})", "({0} % {1})",
        "{0}.replace('', 'b' * {1})", "{0} | indent({1})", "{0} | wordwrap({1})", "{0} | urlize({1})", "{0} | pprint",
        "{0} | truncate({1})", "([{0}] * {1}) | join({0})", "{0}.format({1}, {0})", "{0} | format({1})", "{0} | e",
        "{0}.expandtabs({1})", "('{{:{{}}}}'.format(1, {1}))", "{0} | replace('a', {0} * 9)", "{0} | striptags",
        "(range({1}) | list | tojson)", "(messages | batch({1}, {0}) | list | string)", "{0} | center({1})",
        "(messages * {1}) | tojson(indent={1})", "({1} | round({1}, 'ceil') | string)", "lipsum(n={1})",
        "{0}.encode().decode()", "{0}.split('a') | join('aa')", "(1).to_bytes({1}, 'big') | string", "{0}[::-1]",
        "strftime_now({0} * {1})", "{0}.translate({{97: {0} * {1}}})", "raise_exception({0} * {1})",
    ]  # fmt: skip
    return choice.choice(forms).format(inner, n)


def reaching(choice: random.Random) -> str:
    name, what = choice.choice(DUNDERS), holder(choice)
    inside = name.strip("_")
    return choice.choice(
        [
            f"{what}.{name}", f"{what}['{name}']", f"({what} | attr('{name}'))", f"('{{0.{name}}}'.format({what}))",
            f"([{what}] | map(attribute='{name}') | list)", f"({what} | attr('_' ~ '_{inside}__'))", f"{what}.{name}()",
            f"{what}.{name}.{name}", f"namespace({name}=1)", f"('%({name})s' % {what})", f"{what}['_' ~ '_{inside}__']",
            f"([{what}] | sort(attribute='{name}'))", f"([{what}] | groupby('{name}.{name}'))",
        ]
    )  # fmt: skip


def template(choice: random.Random, depth: int = 3) -> str:
    n, value = number(choice), text(choice)
    if not depth or choice.random() < 0.3:
        return "{{ " + (reaching(choice) if choice.random() < 0.3 else value) + " }}"
    inner = template(choice, depth - 1)
    match choice.randrange(9):
        case 0:
            return f"{{% for a in range({choice.choice([3, 999, 99_999])}) %}}{inner}{{% endfor %}}"
        case 1:
            return f"{{% macro f(n) %}}{{{{ f(n - 1) }}}}{inner}{{{{ f(n) }}}}{{% endmacro %}}{{{{ f({n}) }}}}"
        case 2:
            return f"{{% for m in messages recursive %}}{inner}{{{{ loop(messages) }}}}{{% endfor %}}"
        case 3:
            grown = choice.choice(["ns.x ~ ns.x", "[ns.x, ns.x]", "{'a': ns.x, 'b': ns.x}", "(ns.x, ns)", "ns.x * 9"])
            said = choice.choice(["ns.x", "ns.x | tojson", "ns.x == ns.x", "ns.x | pprint", "ns.x | string | length"])
            loop = f"{{% for i in range(99) %}}{{% set ns.x = {grown} %}}{{% endfor %}}"
            return f"{{% set ns = namespace(x={value}) %}}{loop}{{{{ {said} }}}}{inner}"
        case 4:
            return f"{{% set a %}}{inner}{{% endset %}}{{{{ a * {n} }}}}"
        case 5:
            count = choice.choice([5, 50, 500])
            word = choice.choice(["if 1", "filter upper", "generation", "for a in [1]", "raw", "call f()"])
            return f"{{% {word} %}}" * count + inner + f"{{% end{word.split()[0]} %}}" * count
        case 6:
            return "{{ " + choice.choice("([{-") * choice.choice([9, 999, 99_999]) + " }}" + inner
        case 7:
            source = choice.choice(["'/etc/passwd'", "self", "['a', 'b']", value])
            return (
                choice.choice(["{%% include %s %%}", "{%% extends %s %%}", "{%% import %s as x %%}"]) % source + inner
            )
        case _:
            return "{% if " + value + " == " + value + " %}" + inner + "{% else %}" + inner + "{% endif %}"


def attack(tokenizer: Any, seed: int, seconds: float) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    try:
        said = template_text(tokenizer, CHAT, template=template(random.Random(seed)))
    except TemplateError as error:
        said = str(error)
    assert CANARY not in said
    assert len(said) <= module.LONGEST
    assert time.monotonic() - start < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # in KiB
    assert template_text(tokenizer, CHAT, template="{{ messages | length }}") == "2"  # the next one is not harmed


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_TOKEN", CANARY)
    module._process().end()  # the next one starts with this environment
    return tmp_path


_SETTINGS: dict[str, Any] = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_a_template_made_at_random_gives_a_text_or_is_refused(
    tiny_tokenizer: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.1)

    @given(seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=40, derandomize=True, **_SETTINGS)
    def run(seed: int) -> None:
        attack(tiny_tokenizer, seed, module.PATIENCE + 1)

    run()
    assert not os.listdir(here)


@pytest.mark.long
def test_2_000_templates_made_at_random(tiny_tokenizer: Any, here: Path) -> None:
    @given(seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=2_000, **_SETTINGS)
    def run(seed: int) -> None:
        attack(tiny_tokenizer, seed, module.PATIENCE + 1)

    run()
    assert not os.listdir(here)


@pytest.mark.parametrize("name", DUNDERS)
def test_a_template_that_reaches_for_pythons_inside_is_refused_by_name(tiny_tokenizer: Any, name: str) -> None:
    for reach in (
        "messages.{0}",
        "messages['{0}']",
        "[lipsum] | map(attribute='{0}') | list",
    ):
        with pytest.raises(TemplateError, match=name):
            template_text(tiny_tokenizer, CHAT, template="{{ " + reach.format(name) + " }}")


def test_a_template_that_takes_long_for_each_of_many_is_refused(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.5)
    slow = "{% for i in range(99999) %}{% for j in range(4) %}{% endfor %}{% endfor %}x"
    assert template_text(tiny_tokenizer, CHAT, template=slow) == "x"

    def many() -> None:
        for _ in range(60):
            template_text(tiny_tokenizer, CHAT, template=slow)

    with pytest.raises(TemplateBoundsError, match=r"or 0\.05 for each of many"):
        many()
    quick = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert {template_text(tiny_tokenizer, CHAT, template=quick) for _ in range(200)} == {"HiHello"}
