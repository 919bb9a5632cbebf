"""The seed's checkpoint callbacks: hooks that write adapters and merged models while a trainer runs, and upload them.

What is uploaded is the folder that was written whole and read back. All of several hosts call these hooks, and the
first one writes and uploads.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from lodos import hosts
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.hub import model_folder
from lodos.formats.hub_repo import check_upload
from lodos.formats.model_card import RunFacts, merged_card
from lodos.formats.peft import save_peft_pretrained
from lodos.formats.safetensors_writer import MAX_SHARD_SIZE
from lodos.formats.upload import Uploads
from lodos.formats.verified import verified_export
from lodos.lora.config import LoraConfig
from lodos.places.place import Place, is_remote, place_of
from lodos.prompting.description import Prompting
from lodos.train.hooks import StepInfo

logger = logging.getLogger(__name__)


def save_peft_checkpoint_callback(
    base_path: str | Place,
    config: LoraConfig,
    base_model_name_or_path: str,
    upload_to_hf: str | None = None,
    *,
    chat_template: str | None = None,
    prompting: Prompting | None = None,
    facts: Callable[[StepInfo], RunFacts] | None = None,
    uploads: Uploads | None = None,
) -> Callable[[StepInfo], Place]:
    """A hook that writes the adapter to `<base_path>/step-<step>`, as PEFT would, and returns that folder.

    Args:
        upload_to_hf: the hub repository, as owner/name, to which each is uploaded in the background.
        chat_template: that it is trained with, if it is not the base model's.
        prompting: how it has to be asked; by default what the loader of the training knows of its rows.
        facts: what the model card is to tell of the run.
        uploads: that do it, and which the caller waits for; by default private ones, waited for when Python exits.

    Raises:
        UserError: at once, for a place that cannot be written or a repository that uploads must not go to.
    """
    upload = _uploader("hf_upload", upload_to_hf, base_model_name_or_path, uploads)
    folder = place_of(base_path)
    base_folder = model_folder(base_model_name_or_path, weights=False)

    def save(info: StepInfo) -> Place:
        path = folder / f"step-{info.step}"
        save_peft_pretrained(
            info.model,
            config,
            base_model_name_or_path,
            path,
            base_folder=base_folder,
            chat_template=chat_template,
            prompting=prompting or prompting_of(info),
            facts=_facts(facts, info),
            repo=upload_to_hf,
        )
        _verify(path)
        upload(path, f"Adapter of step {info.step}")
        return path

    return save


def save_merged_hf_checkpoint_callback(
    base_path: str | Place,
    converter: HFCheckpointConverter,
    upload_to_hf: str | None = None,
    *,
    dtype: Any = None,
    max_shard_size: str | int = MAX_SHARD_SIZE,
    prompting: Prompting | None = None,
    facts: Callable[[StepInfo], RunFacts] | None = None,
    uploads: Uploads | None = None,
    on_tensor: Callable[[], None] = lambda: None,
) -> Callable[[StepInfo], Place]:
    """A hook that writes the merged model to `<base_path>/step-<step>`, for transformers, and returns that folder.

    Args:
        dtype: of the tensors; None keeps each tensor's dtype in the base model's files.
        on_tensor: called on the first host after each tensor; what it raises gives up the folder.

    The other arguments and the errors are those of `save_peft_checkpoint_callback`.
    """
    base_model = converter.model_name_or_path
    upload = _uploader("merged_hf_upload", upload_to_hf, base_model, uploads)
    folder = place_of(base_path)

    def save(info: StepInfo) -> Place:
        path = folder / f"step-{info.step}"
        asked = prompting or prompting_of(info)
        known = dataclasses.replace(_facts(facts, info), prompting=asked)
        converter.save_pretrained(
            info.model,
            path,
            dtype=dtype,
            max_shard_size=max_shard_size,
            prompting=asked,
            card=merged_card(base_model, known, tokenizer=converter.tokenizer, repo=upload_to_hf),
            progress=True,
            on_tensor=on_tensor,
        )
        _verify(path)
        upload(path, f"Merged model of step {info.step}")
        return path

    return save


save_hf_checkpoint_callback = save_merged_hf_checkpoint_callback
"""The same hook for a model without adapters, as full fine-tuning trains it."""


def prompting_of(info: StepInfo) -> Prompting | None:
    """How the model of a training has to be asked, as far as its loader knows."""
    return getattr(info.loader, "prompting", None)


def _verify(path: Place) -> None:
    """Says in one line what the folder shows of itself; its files were read back when they were written."""
    if not hosts.is_first() or is_remote(path):
        return
    found = verified_export(path, with_files=False, with_weights=False)
    (logger.warning if found.problems else logger.info)("%s", found.line(path))


def _facts(facts: Callable[[StepInfo], RunFacts] | None, info: StepInfo) -> RunFacts:
    return RunFacts(step=info.step) if facts is None else facts(info)


def _uploader(setting: str, repo: str | None, base_model: str, uploads: Uploads | None) -> Callable[[Place, str], None]:
    """What a hook calls with each folder it has written, and the message of its commit."""
    if repo is None:
        return lambda folder, message: None
    check_upload(setting, repo, base_model)
    used = uploads or Uploads()

    def upload(folder: Place, message: str) -> None:
        if hosts.is_first():
            used.submit(repo, folder, message)

    return upload
