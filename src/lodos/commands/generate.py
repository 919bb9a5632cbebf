"""`lodos generate`: answer a prompt with a model and an adapter, each word as it comes.

Everything that can be wrong with the options, the prompt and the folders is looked at before weights are loaded.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lodos.commands.base_model import base_converter
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.files import read_json
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.hub import model_folder
from lodos.formats.peft import load_peft_pretrained
from lodos.infer.generate import check_prompts, generate_stream, longest_sequence
from lodos.infer.sampling import Sampling
from lodos.infer.text import encode_prompt, end_token_ids, filler_token_id, stream_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_NEW_TOKENS = 256
STDIN = "-"
ALPACA = "alpaca"


@dataclasses.dataclass
class GenerateArgs:
    """Answer a prompt with a model and, if given, a LoRA adapter."""

    prompt: str = dataclasses.field(metadata={"example": "What is a lodos?"})
    """The prompt; - reads it from the standard input."""
    model: str | None = None
    """The model: a folder or a hub name; by default the one that the adapter names."""
    adapter: str | None = None
    """A LoRA adapter: a PEFT folder or a hub name."""
    chat: bool | None = None
    """Whether the prompt is a user's turn for the tokenizer's chat template; by default if there is one."""
    system: str | None = None
    """The system's turn before it."""
    prompts: str | None = None
    """The prompts an adapter was trained with: a file with prompt_input and prompt_no_input, or alpaca."""
    input: str = ""
    """The input that goes with the instruction, where prompts are used."""
    max_new_tokens: int | None = None
    """The most tokens to answer with; by default 256, or as many as the model has positions left."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; 1 draws from what the model believes."""
    top_k: int | None = None
    """Draw from this many of the likeliest tokens."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probabilities add up to this."""
    seed: int = 0
    """The same seed draws the same text."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and computation; auto is that of the files, and on a CPU float32, which is faster there."""


def main(argv: list[str]) -> int:
    """Answers as the arguments say, on the standard output."""
    args = parse_config(GenerateArgs, argv, prog="lodos generate", description=GenerateArgs.__doc__ or "")
    for piece in answer(args):
        print(piece, end="", flush=True)
    print()
    return 0


def answer(args: GenerateArgs) -> Iterator[str]:
    """The answer piece by piece.

    Raises:
        UserError: before any weight is loaded, unless it is the weights that do not fit.
    """
    _check(args)
    adapter = None if args.adapter is None else model_folder(args.adapter)
    converter = _converter(args, adapter)
    tokenizer = _tokenizer(converter, adapter)
    ids = _prompt_ids(args, tokenizer)
    left = longest_sequence(converter.config) - len(ids)
    max_new_tokens = args.max_new_tokens or max(min(DEFAULT_NEW_TOKENS, left), 1)
    check_prompts(
        [ids], max_new_tokens, converter.config, name_of=lambda token: repr(tokenizer.convert_ids_to_tokens(token))
    )

    model = converter.load_pretrained(dtype=_dtype(args), progress=True)
    if adapter is not None:
        model, _ = load_peft_pretrained(model, adapter)
    generation_config = converter.folder / "generation_config.json"
    new_ids = generate_stream(
        model,
        ids,
        max_new_tokens=max_new_tokens,
        eos_token_ids=end_token_ids(tokenizer, read_json(generation_config) if generation_config.exists() else None),
        pad_token_id=filler_token_id(tokenizer),
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
    )
    yield from stream_text(tokenizer, new_ids)


def _check(args: GenerateArgs) -> None:
    problems = []
    if args.model is None and args.adapter is None:
        problems.append("model: missing. Give --model, or --adapter with an adapter that names its base model.")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        problems.append(f"max_new_tokens: {args.max_new_tokens} is less than 1.")
    if args.prompts is not None and (args.chat or args.system is not None):
        problems.append("prompts: templates of instructions, which leave no place for chat or system. Choose one.")
    if args.input and args.prompts is None:
        problems.append("input: only templates have a place for it. Give --prompts alpaca or a file.")
    if args.temperature == 0 and (args.top_k is not None or args.top_p is not None):
        problems.append("top_k, top_p: without effect at temperature 0. Give --temperature 1 or another.")
    try:
        Sampling(args.temperature, args.top_k, args.top_p)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def _converter(args: GenerateArgs, adapter: Path | None) -> HFCheckpointConverter:
    if args.adapter is not None and adapter is not None:
        return base_converter(args.adapter, adapter, args.model)
    assert args.model is not None
    return HFCheckpointConverter.from_hf(args.model)


def _tokenizer(converter: HFCheckpointConverter, adapter: Path | None) -> "PreTrainedTokenizerBase":
    """The adapter's tokenizer if it brings one, with the chat template that it was trained on; else the model's."""
    if adapter is None or not (adapter / "tokenizer_config.json").exists():
        return converter.tokenizer
    return dataclasses.replace(converter, folder=adapter).tokenizer


def _prompt_ids(args: GenerateArgs, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    prompt = sys.stdin.read().removesuffix("\n") if args.prompt == STDIN else args.prompt
    if not prompt:
        raise UserError("prompt: it is empty.")
    if args.prompts is not None:
        from lodos.prompting.prompts import read_prompts

        templates = read_prompts(None if args.prompts == ALPACA else args.prompts)
        return encode_prompt(tokenizer, templates.render(prompt, args.input))
    chat = bool(tokenizer.chat_template) if args.chat is None else args.chat
    return encode_prompt(tokenizer, prompt, chat=chat, system=args.system)


def _dtype(args: GenerateArgs) -> Any:
    import jax
    import jax.numpy as jnp

    if args.dtype != "auto":
        return jnp.dtype(args.dtype)
    return jnp.dtype("float32") if jax.default_backend() == "cpu" else None
