"""From a prompt to the token ids that a model is given: those it would have met before an answer in training.

What is asked here is tokenized as `data/tokens` tokenizes rows: one BOS at most, no EOS, and a chat template's text
with nothing added. White space at the end of a prompt is tokenized with what follows it: the space of "Answer: " is
part of the token " Lodos", so in training it was no token of the prompt, and "\n\n" may be one token alone and two
before a letter.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.prompting.description import FILE, Prompting
from lodos.prompting.prompts import SYSTEM_END
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
    if prompting.format == "alpaca" and (prompts := prompting.prompts) is not None:
        said = [prompts.render(asked) + answered + str(tokenizer.eos_token or "") for asked, answered in earlier]
        system = f"{prompting.system}{SYSTEM_END}" if prompting.system else ""
        prompt = "".join([system, *said, prompts.render(prompt, text)])
    return _encode_plain(tokenizer, prompt, prompting)


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
    if prompting.chat_template is None and not tokenizer.chat_template:
        raise UserError("chat: the tokenizer has no chat template. Set chat to false to give the prompt as it is.")
    turns = [dict(message) for message in messages]
    if prompting.system and not (turns and turns[0].get("role") in _OF_SYSTEM):
        turns.insert(0, {"role": "system", "content": prompting.system})

    def render(turns: Messages, tools: Tools | None) -> str:
        template = _template(tokenizer, prompting, tools)
        try:
            return template_text(tokenizer, turns, template=template, tools=tools, add_generation_prompt=True)
        except TemplateBoundsError as error:
            raise UserError(f"chat: the chat template is refused: {error}.") from None
        except TemplateError as error:
            raise UserError(f"chat: the chat template refuses this conversation: {error}") from None

    forms = TemplateForms(render)
    # The template writes BOS itself where the model wants one.
    text = render(forms.fitted(turns), forms.fitted_tools(tools))
    return _before_answer(tokenizer, text, prompting, add_special_tokens=False)


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
    tokenizer: "PreTrainedTokenizerBase", text: str, prompting: Prompting, *, add_special_tokens: bool = True
) -> list[int]:
    """The tokens before an answer to `text`; those of `text` alone where nobody knows how answers were trained."""
    is_known = prompting.format in prompting.formats and prompting.format != "text"
    if not is_known or not text[-1:].isspace() or not tokenizer.is_fast:
        return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    whole: Any = tokenizer(
        text + prompting.answers_begin, add_special_tokens=add_special_tokens, return_offsets_mapping=True
    )
    ends = [end for _, end in whole["offset_mapping"]]
    return whole["input_ids"][: next(i for i, end in enumerate(ends) if end > len(text))]


def _encode_plain(tokenizer: "PreTrainedTokenizerBase", prompt: str, prompting: Prompting) -> list[int]:
    ids: Any = _before_answer(tokenizer, prompt, prompting)
    probe = list(tokenizer("a")["input_ids"])
    bos: Any = tokenizer.bos_token_id
    # Some tokenizers close every text with EOS, after which a model would begin another.
    if probe[-1:] == [tokenizer.eos_token_id] and ids[-1:] == probe[-1:]:
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
