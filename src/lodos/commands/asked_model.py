"""A model that is to answer, with how it was trained to be asked; what `lodos generate` and `lodos chat` begin with.

Options say how to ask only where it is to be otherwise than in training.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lodos.commands.base_model import base_converter, tokens_beyond
from lodos.errors import UserError
from lodos.formats.folder_contents import adapter_folder
from lodos.formats.generation_config import read_generation_config
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import check_adapter, load_peft_pretrained
from lodos.infer.generate import check_prompts
from lodos.infer.sampling import Sampling
from lodos.models.decoder import LmHeadModel
from lodos.prompting.description import FILE, Prompting, read_prompting
from lodos.prompting.encode import end_token_ids, usual_prompting
from lodos.prompting.prompts import read_prompts
from lodos.prompting.template_variables import asked_by, variable_problems
from lodos.target import target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 256
ALPACA = "alpaca"


@dataclasses.dataclass(kw_only=True)
class AnswerArgs:
    """Which model answers, how it is asked, and how its words are chosen."""

    model: str | None = None
    """The model: a folder or a hub name; by default the one that the adapter names."""
    adapter: str | None = None
    """A LoRA adapter: a PEFT folder or a hub name."""
    chat: bool | None = None
    """Whether a prompt is a user's turn for the chat template (true) or given as it is (false); by default as trained,
    or else by whether there is a template."""
    system: str | None = None
    """The system's turn before it, in place of that of the training; '' for none."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables that the chat template is given, such as {enable_thinking: false}, before those of the training."""
    prompts: str | None = None
    """Prompts to put an instruction into: a file with prompt_input and prompt_no_input, or alpaca; by default as
    trained."""
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

    @property
    def sampling(self) -> Sampling:
        """
        Raises:
            UserError: for a setting out of its range.
        """
        return Sampling(self.temperature, self.top_k, self.top_p)

    def problems(self) -> list[str]:
        """What is wrong with the options, seen before anything is read."""
        problems = []
        if self.model is None and self.adapter is None:
            problems.append("model: missing. Give --model, or --adapter with an adapter that names its base model.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            problems.append(f"max_new_tokens: {self.max_new_tokens} is less than 1.")
        if self.prompts is not None and self.chat:
            problems.append("prompts: templates of instructions, which leave no place for a chat. Choose one.")
        if self.chat is False and self.prompts is None and self.system:
            problems.append("system: only a chat has a system's turn. Set chat to true or leave system out.")
        if self.chat_template_kwargs and (self.chat is False or self.prompts is not None):
            problems.append("chat_template_kwargs: only a chat has a template. Set chat to true or leave them out.")
        problems += [f"chat_template_kwargs: {each}" for each in variable_problems(self.chat_template_kwargs or {})]
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            problems.append("top_k, top_p: without effect at temperature 0. Give --temperature 1 or another.")
        try:
            _ = self.sampling
        except UserError as error:
            problems.append(str(error))
        return problems


@dataclasses.dataclass(frozen=True)
class AskedModel:
    """A model found, its weights not loaded yet."""

    converter: HFCheckpointConverter
    adapter: Path | None
    prompting: Prompting
    """How it is asked: as trained, but for what options say otherwise."""
    trained: Prompting | None
    """How it was trained to be asked, where that is known."""
    end_token_ids: list[int]
    """An answer ends before the first of these."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """That of the adapter where it brings one, else the model's."""
        return self.converter.tokenizer

    def check(self, ids: Sequence[Sequence[int]], max_new_tokens: int, *, names: Sequence[str] | None = None) -> None:
        """Refuses prompts that the model cannot take, as `check_prompts` does, by the tokenizer's names for tokens."""
        tokenizer = self.tokenizer
        check_prompts(
            ids,
            max_new_tokens,
            self.converter.config,
            names=names,
            name_of=lambda token: repr(tokenizer.convert_ids_to_tokens(token)),
        )

    def load(self, dtype: str) -> LmHeadModel:
        """The weights, with the adapter."""
        if self.adapter is not None:
            check_adapter(self.adapter, self.converter)
        model = self.converter.load_pretrained(dtype=_dtype(dtype), progress=True)
        return model if self.adapter is None else load_peft_pretrained(model, self.adapter)[0]


def find_model(args: AnswerArgs) -> AskedModel:
    """Finds model and adapter, and settles how to ask; a line in the log says where options go against the training.

    Raises:
        UserError: for options that are wrong, folders that are not what they should be, and ways to ask that the model
            has not.
    """
    if args.adapter is not None:
        adapter = adapter_folder(args.adapter)
        converter = base_converter(args.adapter, adapter, args.model)
        if (beyond := tokens_beyond(converter)) is not None:
            logger.warning("%s A prompt with one is refused.", beyond)
    else:
        adapter = None
        assert args.model is not None
        converter = HFCheckpointConverter.from_hf(args.model)
    folder = converter.folder if adapter is None else adapter
    trained = read_prompting(folder)
    prompting = _settled(args, trained or usual_prompting(converter.tokenizer), converter.tokenizer)
    if trained is not None:
        _say(args, prompting, trained)
    configs = [read_generation_config(place) for place in dict.fromkeys((converter.folder, folder))]
    return AskedModel(converter, adapter, prompting, trained, end_token_ids(converter.tokenizer, trained, configs))


def _settled(args: AnswerArgs, usual: Prompting, tokenizer: "PreTrainedTokenizerBase") -> Prompting:
    """How the model is asked: what the options say, and else as usual."""
    prompting = usual
    if args.prompts is not None:
        templates = read_prompts(None if args.prompts == ALPACA else args.prompts)
        prompting = dataclasses.replace(usual, format="alpaca", prompts=templates)
    elif args.chat is not None and args.chat != usual.is_chat:
        prompting = dataclasses.replace(usual, format="chat" if args.chat else "prompt_completion")
    if args.system is not None and (args.system or prompting.has_system):
        if not prompting.has_system:
            raise UserError(
                f"system: there is no place for a system's turn: this model is asked {prompting.describe()}. Leave "
                "system out, or add --chat true."
            )
        prompting = dataclasses.replace(prompting, system=args.system or None)
    if args.chat_template_kwargs:
        prompting = _with_variables(args.chat_template_kwargs, prompting, tokenizer)
    if prompting.format == usual.format:
        return prompting
    # What is known of BOS and the system turn is known of the format that was trained.
    return dataclasses.replace(
        prompting,
        bos=None,
        system=args.system or None,
        special_tokens_as_text=usual.special_tokens_as_text and prompting.format in usual.formats,
    )


def _with_variables(
    variables: Mapping[str, Any], prompting: Prompting, tokenizer: "PreTrainedTokenizerBase"
) -> Prompting:
    if not prompting.is_chat:
        raise UserError(
            f"chat_template_kwargs: this model is asked {prompting.describe()}. Leave them out, or add --chat true."
        )
    template = str(prompting.chat_template or tokenizer.chat_template)
    if unread := [name for name in variables if not asked_by(template, name)]:
        raise UserError(
            f"chat_template_kwargs: {', '.join(unread)}: the chat template asks for no such variable, so it would "
            "change nothing. Leave it out."
        )
    return dataclasses.replace(prompting, chat_template_kwargs={**prompting.chat_template_kwargs, **variables})


def _say(args: AnswerArgs, prompting: Prompting, trained: Prompting) -> None:
    if prompting == trained:
        logger.info("Asked as trained: %s (%s).", trained.describe(), FILE)
        return
    ways = ("prompts", "chat", "system", "chat_template_kwargs")
    flags = [f"--{name}" for name in ways if getattr(args, name) is not None]
    logger.info(
        "Asked as %s %s: %s. It was trained to be asked %s.",
        " and ".join(flags),
        "says" if len(flags) == 1 else "say",
        prompting.describe() if prompting.format != trained.format else "with another text than that of the training",
        trained.describe(),
    )


def _dtype(dtype: str) -> Any:
    import jax.numpy as jnp

    if dtype != "auto":
        return jnp.dtype(dtype)
    return jnp.dtype("float32") if target().platform == "cpu" else None
