"""From a prompt to the token ids that a model is given: those it would have met before an answer in training.

What is asked here is tokenized as `data/tokens` tokenizes rows: one BOS at most, no EOS, and a chat template's text
with nothing added. White space at the end of a prompt is tokenized with what follows it: the space of "Answer: " is
part of the token " Lodos", so in training it was no token of the prompt, and "\n\n" may be one token alone and two
before a letter. Special tokens that a prompt's own text spells are read as rows' were.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.prompting.description import FILE, Prompting
from lodos.prompting.prompts import SYSTEM_END
from lodos.prompting.special_tokens import Span, SpecialTokens, SpecialTokensAsText
from lodos.prompting.template_date import dated
from lodos.prompting.template_forms import Messages, TemplateForms, Tools
from lodos.prompting.template_text import TemplateBoundsError, TemplateError, template_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = Prompting("text")
"""A prompt is given as it is, with what the tokenizer puts in front."""
CHAT = Prompting("chat")
"""A prompt is a user's turn for the tokenizer's own chat template."""

_OF_SYSTEM = ("system", "developer")


def usual_prompting(tokenizer: "PreTrainedTokenizerBase") -> Prompting:
    """How to ask a model of which nothing is known: by its chat template if there is one."""
    return CHAT if tokenizer.chat_template else PLAIN


def encode_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    prompting: Prompting = PLAIN,
    *,
    text: str = "",
    earlier: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """The ids of one prompt: an instruction, a user's turn, or text to go on with, as `prompting` says.

    Args:
        text: the input that goes with an instruction.
        earlier: the turns before it, as (prompt, answer), where `prompting.has_turns`.

    Raises:
        UserError: for `text` without a place for it, and as `encode_messages` does.
    """
    if text and prompting.format != "alpaca":
        raise UserError("input: only the prompts of instructions have a place for it. Give --prompts alpaca or a file.")
    if prompting.is_chat:
        turns = [(role, said) for pair in earlier for role, said in zip(("user", "assistant"), pair, strict=True)]
        messages = [{"role": role, "content": said} for role, said in [*turns, ("user", prompt)]]
        return encode_messages(tokenizer, messages, prompting)
    pieces = plain_pieces(prompt, prompting, text=text, earlier=earlier, end=str(tokenizer.eos_token or ""))
    return _encode_plain(tokenizer, pieces, prompting)


def plain_pieces(
    prompt: str, prompting: Prompting, *, text: str = "", earlier: Sequence[tuple[str, str]] = (), end: str = ""
) -> list[tuple[str, bool]]:
    """What stands before an answer where there is no chat template: (text, whether it is the prompt's own).

    Args:
        end: what ends the answer of an earlier turn.
    """
    if prompting.format != "alpaca" or prompting.prompts is None:
        return [(prompt, True)]
    pieces = [(prompting.system, True), (SYSTEM_END, False)] if prompting.system else []
    for asked, answered in earlier:
        pieces += [*prompting.prompts.pieces(asked), (answered, True), (end, False)]
    return [*pieces, *prompting.prompts.pieces(prompt, text)]


def encode_messages(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Messages,
    prompting: Prompting = CHAT,
    *,
    tools: Tools | None = None,
) -> list[int]:
    """The ids of a conversation that the model is to answer.

    Args:
        messages: of OpenAI's form; the system turn of the training goes before them unless they bring one.

    Raises:
        UserError: without a chat template, or when it refuses the conversation.
    """
    turns, tools = fitted_turns(tokenizer, messages, prompting, tools=tools)
    # The template writes BOS itself where the model wants one.
    text = _rendered(tokenizer, prompting, turns, tools)
    spelled: tuple[Span, ...] | list[str] = ()
    if prompting.special_tokens_as_text:
        render = functools.partial(_rendered, tokenizer, prompting)
        spelled = SpecialTokens(tokenizer).in_messages(render, turns, tools, text)
        if isinstance(spelled, list):
            raise UserError(f"chat: the chat template treats {', '.join(spelled)} in a message in a way of its own.")
    return _before_answer(tokenizer, text, prompting, spelled, add_special_tokens=False)


def fitted_turns(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, prompting: Prompting, *, tools: Tools | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """The conversation as the chat template takes it, with the system turn of the training, and the tools.

    Raises:
        UserError: without a chat template.
    """
    if prompting.chat_template is None and not tokenizer.chat_template:
        raise UserError("chat: the tokenizer has no chat template. Set chat to false to give the prompt as it is.")
    turns = [dict(message) for message in messages]
    if prompting.system and not (turns and turns[0].get("role") in _OF_SYSTEM):
        turns.insert(0, {"role": "system", "content": prompting.system})
    forms = TemplateForms(functools.partial(_rendered, tokenizer, prompting))
    return forms.fitted(turns), forms.fitted_tools(tools)


def rendered_turns(
    tokenizer: "PreTrainedTokenizerBase", turns: Sequence[tuple[str, str]], prompting: Prompting = CHAT
) -> str:
    """The text before the answer to these turns, (role, content) each, and no others.

    Raises:
        UserError: when the chat template refuses them.
    """
    messages = [{"role": role, "content": content} for role, content in turns]
    return _rendered(tokenizer, prompting, messages, None)


def _rendered(tokenizer: "PreTrainedTokenizerBase", prompting: Prompting, turns: Messages, tools: Tools | None) -> str:
    try:
        return template_text(
            tokenizer,
            turns,
            template=_template(tokenizer, prompting, tools),
            tools=tools,
            variables=prompting.chat_template_kwargs,
            add_generation_prompt=True,
        )
    except TemplateBoundsError as error:
        raise UserError(f"chat: the chat template is refused: {error}.") from None
    except TemplateError as error:
        raise UserError(f"chat: the chat template refuses this conversation: {error}") from None


def end_token_ids(
    tokenizer: "PreTrainedTokenizerBase",
    prompting: Prompting | None = None,
    generation_configs: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """The ids that end an answer: the tokenizer's EOS, those that were trained, and those of generation_config.json.

    Raises:
        UserError: when the tokenizer knows a trained one by another id, so that it is not the one of the training.
    """
    found: set[int] = set()
    for config in generation_configs:
        declared = config.get("eos_token_id")
        found.update(token for token in (declared if isinstance(declared, list) else [declared]) if token is not None)
    if isinstance(tokenizer.eos_token_id, int):
        found.add(tokenizer.eos_token_id)
    for token in () if prompting is None else prompting.end_tokens:
        known: Any = tokenizer.convert_tokens_to_ids(token.text)
        if known != token.id:
            raise UserError(
                f"{FILE}: end_tokens: {token.text!r} is {token.id} there and {known} in the tokenizer beside it, which "
                "is not the one of the training."
            )
        found.add(token.id)
    return sorted(found)


def _template(tokenizer: "PreTrainedTokenizerBase", prompting: Prompting, tools: Any) -> str:
    """The template, which writes the day of the training as today's."""
    template = prompting.chat_template or tokenizer.get_chat_template(None, tools=tools)
    return template if prompting.date is None else dated(template, prompting.date)


def _before_answer(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    prompting: Prompting,
    spelled: Sequence[Span],
    *,
    add_special_tokens: bool = True,
) -> list[int]:
    """The tokens before an answer to `text`; those of `text` alone where nobody knows how answers were trained.

    Args:
        spelled: the special tokens that are plain characters of it.
    """
    begins = answers_begin_after(text, prompting) if tokenizer.is_fast else ""
    if spelled:
        found = _as_text(tokenizer).encode(text + begins, spelled, add_special_tokens=add_special_tokens)
        if found is None:
            named = ", ".join(dict.fromkeys(text[start:end] for start, end in spelled))
            raise UserError(
                f"prompt: the tokenizer makes {named} of these characters in any case, while special tokens in a "
                "prompt's own text were plain characters in training (special_tokens_as_text). Write it otherwise."
            )
        encoding, ids = found[0], found[1].tolist()
    else:
        encoded: Any = tokenizer(text + begins, add_special_tokens=add_special_tokens)
        ids = list(encoded["input_ids"])
        encoding = encoded.encodings[0] if tokenizer.is_fast else None
    if not begins or encoding is None:
        return ids
    of_text = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence is not None]
    # The last one covers what an answer begins with, even where a tokenizer leaves white space out of offsets.
    return ids[: next(i for i in of_text if encoding.offsets[i][1] > len(text) or i == of_text[-1])]


def answers_begin_after(text: str, prompting: Prompting) -> str:
    """What is tokenized with `text`, since training had an answer after the white space at its end; "" for none."""
    is_known = prompting.format in prompting.formats and prompting.format != "text"
    return prompting.answers_begin if is_known and text[-1:].isspace() else ""


@functools.lru_cache(maxsize=1)  # it copies the tokenizer
def _as_text(tokenizer: "PreTrainedTokenizerBase") -> SpecialTokensAsText:
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which cannot read special tokens as text. Use one with a "
            "tokenizer.json."
        )
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009 (only fast tokenizers have it)
    return SpecialTokensAsText(backend, SpecialTokens(tokenizer))


def _encode_plain(
    tokenizer: "PreTrainedTokenizerBase", pieces: Sequence[tuple[str, bool]], prompting: Prompting
) -> list[int]:
    prompt = "".join(piece for piece, _ in pieces)
    spelled = SpecialTokens(tokenizer).in_row_text(pieces) if prompting.special_tokens_as_text else ()
    ids: Any = _before_answer(tokenizer, prompt, prompting, spelled)
    probe = list(tokenizer("a")["input_ids"])
    bos: Any = tokenizer.bos_token_id
    # Some tokenizers close every text with EOS, after which a model would begin another. What is cut has lost it.
    is_cut = answers_begin_after(prompt, prompting) and tokenizer.is_fast
    if probe[-1:] == [tokenizer.eos_token_id] and ids[-1:] == probe[-1:] and not is_cut:
        ids = ids[:-1]
    if bos is None:
        return ids
    # The prompt's own BOS and the tokenizer's are one, as in training.
    if probe[:1] == [bos] and ids[:2] == [bos, bos]:
        ids = ids[1:]
    if prompting.bos and ids[:1] != [bos]:
        return [bos, *ids]
    if prompting.bos is False and ids[:1] == [bos] and not prompt.startswith(str(tokenizer.bos_token)):
        return ids[1:]
    return ids
