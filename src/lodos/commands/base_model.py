"""The base model of an adapter: the one that the user gives, or the one that the adapter names."""

import dataclasses
import shlex
from pathlib import Path

from lodos.errors import UserError
from lodos.formats.folder_contents import check_weights
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.hub import is_folder, weights_place
from lodos.formats.peft import CONFIG_NAME, read_adapter_config
from lodos.formats.tokenizer_files import has_tokenizer
from lodos.places.place import is_url, place_of
from lodos.prompting.description import TEMPLATE_FILE

_SHOWN = 5
"""Tokens that are named."""


def base_converter(adapter: str, folder: Path, model: str | None) -> HFCheckpointConverter:
    """The base model's config, read from the revision that the adapter names, with the adapter's tokenizer and chat
    template where it brings its own.

    Args:
        adapter: for the error.
        folder: the adapter's; its config is read in any case, so that a bad one is refused early.
        model: a folder or hub name in place of what the adapter names.

    Raises:
        UserError: when neither names one, or the model is not there or not supported.
    """
    config = read_adapter_config(folder)
    named = config.base_model_name_or_path or None
    if model is not None:
        converter = HFCheckpointConverter.from_hf(model)
    elif named is None:
        raise UserError(f"{adapter}: the adapter does not name its base model. Give it with --model.")
    else:
        try:
            converter = HFCheckpointConverter.from_hf(named, revision=config.revision)
            if is_folder(named):
                check_weights(named, weights_place(named))
        except UserError as error:
            raise UserError(f"{error}\n{_source(named, folder)}") from None
    return _with_tokenizer_of(converter, folder)


def with_tokenizer_of_base(converter: HFCheckpointConverter) -> HFCheckpointConverter:
    """The same with the base model's own tokenizer, and the chat template of the one in its place."""
    if converter.tokenizer_folder is None:
        return converter
    template = converter.tokenizer.chat_template
    template = template if isinstance(template, str) else converter.chat_template
    return dataclasses.replace(converter, tokenizer_folder=None, chat_template=template)


def tokens_beyond(converter: HFCheckpointConverter) -> str | None:
    """In a sentence, the tokens that an adapter's own tokenizer has, and neither the base model's embedding nor its
    tokenizer; None where there are none."""
    if converter.tokenizer_folder is None:
        return None
    rows = converter.config.vocab_size
    beyond = sorted(
        (token_id, token) for token, token_id in converter.tokenizer.get_vocab().items() if token_id >= rows
    )
    if beyond and has_tokenizer(converter.folder):
        of_base = with_tokenizer_of_base(converter).tokenizer.get_vocab()
        beyond = [(token_id, token) for token_id, token in beyond if of_base.get(token) != token_id]
    if not beyond:
        return None
    shown = ", ".join(f"{token!r} (id {token_id})" for token_id, token in beyond[:_SHOWN])
    more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
    return f"The adapter's tokenizer has tokens beyond the {rows} rows of the base model's embedding: {shown}{more}."


def _source(named: str, folder: Path) -> str:
    """Where the name of the base comes from, and how to give another."""
    relative = (
        not is_url(named) and not place_of(named).is_absolute() and (named.startswith(".") or named.count("/") != 1)
    )
    whence = f" A relative path counts from here, {Path.cwd()}." if relative else ""
    return (
        f"The name {named} is that of the base model in {folder / CONFIG_NAME} (base_model_name_or_path).{whence} If "
        f"the model is elsewhere, write --model FOLDER beside --adapter {shlex.quote(str(folder))}."
    )


def _with_tokenizer_of(converter: HFCheckpointConverter, folder: Path) -> HFCheckpointConverter:
    if has_tokenizer(folder):
        return dataclasses.replace(converter, tokenizer_folder=folder)
    if (folder / TEMPLATE_FILE).is_file():
        template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
        return dataclasses.replace(converter, chat_template=template)
    return converter
