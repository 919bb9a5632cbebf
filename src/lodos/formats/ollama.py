"""Ollama's Modelfile: which file to run, and how it is asked, as it was trained.

Ollama writes prompts by templates of Go. A chat template of Hugging Face's is a program in Jinja and cannot be
translated as such; but most put a piece of text before and after each turn, by its role. The pieces are found by
rendering conversations of known turns, and taken only if they give the whole text of every one of these conversations.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from lodos.errors import UserError
from lodos.prompting.description import Prompting
from lodos.prompting.encode import rendered_turns
from lodos.prompting.prompts import SYSTEM_END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Turns = tuple[tuple[str, str], ...]
"""(role, content) each."""

# Words of no template.
_SYSTEM, _ASKED, _ANSWERED, _ASKED_NEXT = "qxsystemxq", "qxaskedxq", "qxansweredxq", "qxnextxq"
_SHORT: Turns = (("user", _ASKED),)
_LONG: Turns = (*_SHORT, ("assistant", _ANSWERED), ("user", _ASKED_NEXT))
_WITH_SYSTEM: Turns = (("system", _SYSTEM), *_SHORT)


@dataclasses.dataclass(frozen=True)
class TurnTemplate:
    """What stands around the turns of a conversation."""

    without_system: str
    """At the start of one that has no system turn."""
    around: dict[str, tuple[str, str]]
    """By role, what stands before and after the content."""
    answer: str
    """Before the answer that is asked for."""

    def rendered(self, turns: Turns) -> str:
        """The text before the answer to the last turn."""
        start = "" if turns and turns[0][0] == "system" else self.without_system
        said = (before + content + after for role, content in turns for before, after in [self.around[role]])
        return start + "".join(said) + self.answer

    def in_go(self) -> str:
        """The same for Ollama."""
        branches = "".join(
            ("{{ else if" if index else "{{ if") + f' eq .Role "{role}" }}}}{_go(before)}{{{{ .Content }}}}{_go(after)}'
            for index, (role, (before, after)) in enumerate(self.around.items())
        )
        start = ""
        if self.without_system:
            start = '{{ if ne (index .Messages 0).Role "system" }}' + _go(self.without_system) + "{{ end }}"
        return start + "{{ range .Messages }}" + branches + "{{ end }}{{ end }}" + _go(self.answer)


def turn_template(render: Callable[[Turns], str]) -> TurnTemplate | None:
    """What stands around the turns in what `render` gives; None if that is not all there is to it.

    Args:
        render: the text before an answer; raises `UserError` for turns that it does not take.
    """
    try:
        known = {turns: render(turns) for turns in (_SHORT, _LONG)}
    except UserError:
        return None
    for turns in (_WITH_SYSTEM, (_WITH_SYSTEM[0], *_LONG)):
        try:
            known[turns] = render(turns)
        except UserError:  # a template that takes no system turn
            known.pop(_WITH_SYSTEM, None)
            break
    return next(
        (found for found in _cuts(known) if all(found.rendered(turns) == known[turns] for turns in known)), None
    )


def _cuts(known: Mapping[Turns, str]) -> Iterator[TurnTemplate]:
    """Ways to cut the text between turns: what stands between an answer and the next turn may be of either."""
    first, _, answer = known[_SHORT].partition(_ASKED)
    _, _, rest = known[_LONG].partition(_ANSWERED)
    after_answer, _, _ = rest.partition(_ASKED_NEXT)
    before_system, _, rest = known.get(_WITH_SYSTEM, _SYSTEM).partition(_SYSTEM)
    after_system, _, _ = rest.partition(_ASKED)
    for size in range(len(first) + 1):
        start, user = first[:size], first[size:]
        end = after_answer.removesuffix(user)
        after_user = _common_start(end, answer)
        around = {
            "user": (user, after_user),
            "assistant": (answer.removeprefix(after_user), end),
        }
        if _WITH_SYSTEM in known:
            around["system"] = (before_system, after_system.removesuffix(user))
        yield TurnTemplate(start, around, answer.removeprefix(after_user))


def _common_start(one: str, other: str) -> str:
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in alike)


def modelfile(
    weights: str,
    tokenizer: "PreTrainedTokenizerFast",
    prompting: Prompting | None,
    *,
    adapter: str | None = None,
) -> tuple[str, list[str]]:
    """A Modelfile, and what of the prompts it cannot say, a sentence each.

    Args:
        weights: the GGUF file of the model, from where the Modelfile lies.
        adapter: the GGUF file of a LoRA adapter.
    """
    lines = [f"FROM {weights}"]
    if adapter is not None:
        lines.append(f"ADAPTER {adapter}")
    template, remarks = _template(tokenizer, prompting)
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    ends = [] if prompting is None else [token.text for token in prompting.end_tokens]
    lines += [f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in ends]
    if prompting is not None and prompting.system:
        lines.append(f"SYSTEM {json.dumps(prompting.system, ensure_ascii=False)}")
    return "\n".join(lines) + "\n", remarks


def _template(tokenizer: "PreTrainedTokenizerFast", prompting: Prompting | None) -> tuple[str | None, list[str]]:
    if prompting is None:
        return None, ["Nothing says how it was trained to be asked (prompting.json), so Ollama decides by the file."]
    if prompting.is_chat:
        found = turn_template(lambda turns: rendered_turns(tokenizer, turns, prompting))
        if found is None:
            return None, ["The chat template is more than turns with text around them: Ollama decides by the file."]
        return found.in_go(), []
    if prompting.format != "alpaca" or prompting.prompts is None:
        return "{{ .Prompt }}", []
    asked = "".join("{{ .Prompt }}" if is_own else _go(text) for text, is_own in prompting.prompts.pieces("asked"))
    remarks = []
    if "input" in prompting.prompts.prompt_input:
        remarks.append("Ollama has no place for an instruction's input: it is asked without one.")
    return "{{ if .System }}{{ .System }}" + _go(SYSTEM_END) + "{{ end }}" + asked, remarks


def _go(text: str) -> str:
    """Go's template language for this text: as it is, or quoted where it would mean something."""
    if not text:
        return ""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
