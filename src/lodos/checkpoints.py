"""The seed's checkpoint callbacks: hooks that write adapters and merged models while a trainer runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lodos.errors import UserError
from lodos.files import local_path
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.hub import model_folder
from lodos.formats.peft import save_peft_pretrained
from lodos.formats.safetensors import MAX_SHARD_SIZE
from lodos.lora.config import LoraConfig
from lodos.train.hooks import StepInfo


def save_peft_checkpoint_callback(
    base_path: str | Path,
    config: LoraConfig,
    base_model_name_or_path: str,
    upload_to_hf: str | None = None,
    *,
    chat_template: str | None = None,
) -> Callable[[StepInfo], Path]:
    """A hook that writes the adapter to `<base_path>/step-<step>`, as PEFT would, and returns that folder.

    Args:
        chat_template: that it is trained with, if it is not the base model's.

    Raises:
        UserError: at once, for a place that cannot be written or an upload, which does not exist yet.
    """
    _refuse_upload(upload_to_hf)
    folder = local_path(base_path)
    base_folder = model_folder(base_model_name_or_path, weights=False)

    def save(info: StepInfo) -> Path:
        path = folder / f"step-{info.step}"
        facts = {"step": str(info.step)}
        save_peft_pretrained(
            info.model,
            config,
            base_model_name_or_path,
            path,
            base_folder=base_folder,
            chat_template=chat_template,
            facts=facts,
        )
        return path

    return save


def save_merged_hf_checkpoint_callback(
    base_path: str | Path,
    converter: HFCheckpointConverter,
    upload_to_hf: str | None = None,
    *,
    dtype: Any = None,
    max_shard_size: str | int = MAX_SHARD_SIZE,
) -> Callable[[StepInfo], Path]:
    """A hook that writes the merged model to `<base_path>/step-<step>`, for transformers, and returns that folder.

    Args:
        dtype: of the tensors; None keeps each tensor's dtype in the base model's files.

    Raises:
        UserError: at once, for a place that cannot be written or an upload, which does not exist yet.
    """
    _refuse_upload(upload_to_hf)
    folder = local_path(base_path)

    def save(info: StepInfo) -> Path:
        path = folder / f"step-{info.step}"
        converter.save_pretrained(info.model, path, dtype=dtype, max_shard_size=max_shard_size, progress=True)
        return path

    return save


save_hf_checkpoint_callback = save_merged_hf_checkpoint_callback
"""The same hook for a model without adapters, as full fine-tuning trains it."""


def _refuse_upload(repo: str | None) -> None:
    if repo:
        raise UserError(
            f"hf_upload, merged_hf_upload: {repo!r}: uploading during training is not available yet. Leave it empty "
            "and upload the folder with `hf upload` afterwards."
        )
