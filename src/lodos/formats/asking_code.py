"""Python for transformers that asks a model as it was trained: the end of a model card's code.

It goes on from the names `path`, `model` and `tokenizer`. The prompt stands in it as `...`. What it gives the model are
the ids that `encode_prompt` gives, and it is no longer than that takes with the model's own tokenizer:

    a prompt ends in white space, which is tokenized with what follows it    cut where an answer begins
    a tokenizer closes texts with EOS                                        cut before it
    a prompt brings its own BOS                                              none is put before it
    special tokens in a prompt's own text were plain characters              a prompt with one is refused
    the template writes the day, or takes variables                          those of the training

Each way is tried on some prompts. Where none gives the ids, there is no code, and a line says what does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.prompting.description import Prompting
from lodos.prompting.encode import answers_begin_after, encode_messages, encode_prompt, fitted_turns, plain_pieces
from lodos.prompting.template_date import date_macro, dated
from lodos.prompting.template_text import template_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = "..."
_ENDS = ("", " ", "  ", "\n", "\n\n")
"""A prompt may end in these."""
_PLACE = "\ufdd0"  # of the prompt in what stands around it; a noncharacter


def asking_code(
    prompting: Prompting | None, *, tokenizer: "PreTrainedTokenizerBase | None" = None, ends: str | None = None
) -> str:
    """The lines, each with its end; none where nobody knows how to ask.

    Args:
        tokenizer: that the code will have; by default it is taken to need all that one may need.
        ends: the name of the folder whose generation config says what ends an answer; None where the model has it.
    """
    if prompting is None:
        return ""
    inputs = (_chat if prompting.is_chat else _plain)(prompting, tokenizer)
    if inputs is None:
        return "\n# transformers alone cannot write the prompts that it was trained on: ask it by `lodos generate`.\n"
    settings = "max_new_tokens=200"
    if ends is not None:
        inputs.append(f"generation_config = GenerationConfig.from_pretrained({ends})  # with the end of an answer")
        settings = f"generation_config=generation_config, {settings}"
    lines = [
        "",
        *inputs,
        f"output = model.generate(**inputs, {settings})",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "".join(f"{line}\n" for line in lines)


def _plain(prompting: Prompting, tokenizer: "PreTrainedTokenizerBase | None") -> list[str] | None:
    around = "".join(text for text, _ in plain_pieces(_PLACE, prompting)).split(_PLACE)
    question, guard = _question(prompting)
    prompt = f" + {question} + ".join(map(repr, around)).removeprefix("'' + ").removesuffix(" + ''")
    lines = [*guard, f"prompt = {prompt}"]
    if tokenizer is None:
        return [*lines, *_cut(prompting)]
    bos = str(tokenizer.bos_token or "")
    adds_bos = bool(bos) and list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]
    had_bos = bool(bos) and not adds_bos and prompting.bos is True and not around[0]
    if had_bos:  # every row brought its own
        lines = [*guard, f"prompt = {bos!r} + {question}.removeprefix({bos!r})"]
    is_own = bool(bos) and around[0].startswith(bos)
    brings_bos = adds_bos and not around[0]
    options = ""
    if adds_bos and is_own:
        options = ", add_special_tokens=False"
    elif brings_bos:
        options = f", add_special_tokens=not prompt.startswith({bos!r})"

    def added(text: str) -> dict[str, Any]:
        return {"add_special_tokens": not text.startswith(bos)} if options else {}

    return _first_that_fits(
        tokenizer,
        prompting,
        [f"{begin}{_ASKED}{end}" for begin in (("", bos) if brings_bos or had_bos else ("",)) for end in _ENDS],
        text_of=lambda asked: bos + asked.removeprefix(bos) if had_bos else asked.join(around),
        added=added,
        short=[*lines, f'inputs = tokenizer(prompt{options}, return_tensors="pt")'],
        long=[*lines, *_cut(prompting, options)],
        wanted=lambda asked: encode_prompt(tokenizer, asked, prompting),
    )


def _chat(prompting: Prompting, tokenizer: "PreTrainedTokenizerBase | None") -> list[str] | None:
    def turns(asked: str) -> list[dict[str, Any]]:
        messages = [{"role": "user", "content": asked}]
        if tokenizer is not None:
            return fitted_turns(tokenizer, messages, prompting)[0]
        return [*([{"role": "system", "content": prompting.system}] if prompting.system else []), *messages]

    question, guard = _question(prompting)
    lines = [*guard, f"messages = {turns(_PLACE)!r}".replace(repr(_PLACE), question)]
    options = "".join(f", {name}={value!r}" for name, value in prompting.chat_template_kwargs.items())
    template = prompting.chat_template or (None if tokenizer is None else tokenizer.chat_template)
    if prompting.date is not None and isinstance(template, str):
        lines += [
            f"# The template writes today's date; in the training that was {prompting.date}.",
            f"template = {date_macro(template, prompting.date)!r} + tokenizer.chat_template",
        ]
        options = f", chat_template=template{options}"
    short = [
        *lines,
        "inputs = tokenizer.apply_chat_template(",
        f'    messages, add_generation_prompt=True{options}, return_dict=True, return_tensors="pt"',
        ")",
    ]
    long = [
        *lines,
        f"prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True{options}, tokenize=False)",
        *_cut(prompting, ", add_special_tokens=False"),
    ]
    if tokenizer is None or not isinstance(template, str):
        return long

    def text_of(asked: str) -> str:
        assert isinstance(template, str)
        return template_text(
            tokenizer,
            turns(asked),
            template=template if prompting.date is None else dated(template, prompting.date),
            variables=prompting.chat_template_kwargs,
            add_generation_prompt=True,
        )

    return _first_that_fits(
        tokenizer,
        prompting,
        [f"{_ASKED}{end}" for end in _ENDS],
        text_of=text_of,
        added=lambda _: {"add_special_tokens": False},
        short=short,
        long=long,
        wanted=lambda asked: encode_messages(tokenizer, [{"role": "user", "content": asked}], prompting),
    )


def _first_that_fits(
    tokenizer: "PreTrainedTokenizerBase",
    prompting: Prompting,
    prompts: list[str],
    *,
    text_of: Callable[[str], str],
    added: Callable[[str], dict[str, Any]],
    short: list[str],
    long: list[str],
    wanted: Callable[[str], list[int]],
) -> list[str] | None:
    """Of the two ways to tokenize the texts of these prompts the first that gives the ids that are wanted."""
    try:
        asked = [(text, wanted(prompt)) for prompt in prompts if (text := text_of(prompt))]
    except UserError:  # a template that refuses such a conversation
        return long
    if all(list(tokenizer(text, **added(text))["input_ids"]) == ids for text, ids in asked):
        return short
    fits = all(_cut_ids(tokenizer, prompting, text, added(text)) == ids for text, ids in asked)
    return long if fits else None


def _question(prompting: Prompting) -> tuple[str, list[str]]:
    """How the code names what is asked, and what has to stand before."""
    if not prompting.special_tokens_as_text:
        return f'"{_ASKED}"', []
    return "question", [
        f'question = "{_ASKED}"',
        "# Special tokens in it were plain text in the training, as they are for `lodos generate`, and not here.",
        "special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]",
        "assert not any(token in question for token in special)",
    ]


def _cut(prompting: Prompting, options: str = "") -> list[str]:
    if not answers_begin_after(" ", prompting):
        return [
            f'inputs = tokenizer(prompt{options}, return_offsets_mapping=True, return_tensors="pt")',
            'ends = inputs.pop("offset_mapping")[0, :, 1].tolist()',
            "length = max(i for i, end in enumerate(ends) if end > 0) + 1  # without the EOS that closes a text",
            "inputs = {name: values[:, :length] for name, values in inputs.items()}",
        ]
    return [
        "# White space at its end belongs to the token with which an answer begins, where it did so in the training.",
        f'begin = {prompting.answers_begin!r} if prompt[-1:].isspace() else ""',
        f'inputs = tokenizer(prompt + begin{options}, return_offsets_mapping=True, return_tensors="pt")',
        'ends = inputs.pop("offset_mapping")[0, :, 1].tolist()',
        "length = max(i for i, end in enumerate(ends) if 0 < end <= len(prompt)) + 1",
        "inputs = {name: values[:, :length] for name, values in inputs.items()}",
    ]


def _cut_ids(
    tokenizer: "PreTrainedTokenizerBase", prompting: Prompting, prompt: str, options: dict[str, Any]
) -> list[int]:
    """What the lines of `_cut` give."""
    begin = answers_begin_after(prompt, prompting)
    encoded: Any = tokenizer(prompt + begin, return_offsets_mapping=True, **options)
    ends = [end for _, end in encoded["offset_mapping"]]
    length = max((i for i, end in enumerate(ends) if 0 < end <= len(prompt)), default=-1) + 1
    return list(encoded["input_ids"][:length])
