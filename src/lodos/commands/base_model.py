"""The base model of an adapter: the one that the user gives, or the one that the adapter names."""

from pathlib import Path

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import read_adapter_config


def base_converter(adapter: str, folder: Path, model: str | None) -> HFCheckpointConverter:
    """The base model's config, read from the revision that the adapter names.

    Args:
        adapter: for the error.
        folder: the adapter's; its config is read in any case, so that a bad one is refused early.
        model: a folder or hub name in place of what the adapter names.

    Raises:
        UserError: when neither names one, or the model is not there or not supported.
    """
    config = read_adapter_config(folder)
    if model is not None:
        return HFCheckpointConverter.from_hf(model)
    if config.base_model_name_or_path is None:
        raise UserError(f"{adapter}: the adapter does not name its base model. Give it with --model.")
    return HFCheckpointConverter.from_hf(config.base_model_name_or_path, revision=config.revision)
