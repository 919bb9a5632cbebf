"""The settings of `lodos train`, composed of those that live beside what they configure."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lodos import hosts
from lodos.coming_from.translate import translated
from lodos.config_parsing import Translation, dump_config
from lodos.data.config import DataArgs
from lodos.errors import UserError
from lodos.formats.hub_repo import check_upload
from lodos.lora.config import LoraConfig
from lodos.nn.attention.attention import AttentionImplementation
from lodos.nn.stacked import GradientCheckpointing
from lodos.places.saving import save_text
from lodos.train.config import TrainerConfig
from lodos.train.early_stopping import EarlyStoppingConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.save_schedule import keep_problems

DEFAULT_EPOCHS = 3.0
UPLOADS = ("hf_upload", "merged_hf_upload")
"""The settings that name a repository; full fine-tuning has the first alone."""


@dataclasses.dataclass(kw_only=True)
class FineTuneArgs(DataArgs):
    """Fine-tune a Hugging Face model on instruction data: what is needed whichever of its parameters are trained."""

    model_name_or_path: str = dataclasses.field(metadata={"example": "HuggingFaceTB/SmolLM2-135M-Instruct"})
    """Model to start from: a Hugging Face folder or a hub name."""
    trainer: TrainerConfig = TrainerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    gradient_checkpointing: GradientCheckpointing = "auto"
    """What the backward pass recomputes to save memory: none, dots (all but large products and attention) or full; auto
    is dots, or full where that is what fits the memory."""
    attn_implementation: AttentionImplementation = "auto"
    """How attention is computed: blockwise (anywhere), splash (TPU), cudnn (GPU), plain; auto goes by the device."""
    z_loss: float = 0.0
    """Weight of log(sum(exp(logits)))^2 in the loss, which keeps logits from drifting; 1e-4 is usual."""
    scan_layers: bool = True
    """Compile one layer and scan over all; false compiles them one by one: slower to start, rarely faster to run."""
    hf_save_path: str | None = None
    """Folder for what is trained, as <hf_save_path>/<id>/step-<k>; by default in <run_dir>/<id>."""
    hf_save_steps: int = 500
    """Steps between two of them; one is always saved at the end."""
    hf_upload: str | None = None
    """Hub repository for them, as owner/name: each saved one is uploaded there. Never the base model's own."""
    hf_private: bool = True
    """Make repositories private; false makes them public, and true refuses one that exists and is public."""

    def __post_init__(self) -> None:
        problems = []
        try:
            super().__post_init__()
        except UserError as error:
            problems += str(error).splitlines()
        if self.z_loss < 0:
            problems.append(f"z_loss: {self.z_loss} must not be negative.")
        if self.hf_save_steps < 1:
            problems.append(f"hf_save_steps: {self.hf_save_steps} must be at least 1.")
        uploads = {name: repo for name in UPLOADS if (repo := getattr(self, name, None)) is not None}
        for name, repo in uploads.items():
            try:
                check_upload(name, repo, self.model_name_or_path)
            except UserError as error:
                problems.append(str(error))
        if len(uploads) == 2 and len({repo.lower() for repo in uploads.values()}) == 1:
            problems.append("merged_hf_upload: the same repository as hf_upload, whose files it would replace.")
        if problems:
            raise UserError("\n".join(problems))

    @classmethod
    def translated(cls, values: Mapping[str, Any], origin: Literal["file", "flags"]) -> Translation:
        """The values of a config that was written for another tool, by the names they have here."""
        return translated(cls, values, origin)

    def save(self) -> None:
        """Writes the config into the run's folder, from where the run is resumed; of several hosts the first one does,
        without what is one host's own."""
        if hosts.is_first():
            distributed = self.trainer.distributed.of_all()
            # A run that goes on from it later goes on from its end.
            trainer = dataclasses.replace(self.trainer, distributed=distributed, load_checkpoint_step=None)
            of_all = dataclasses.replace(self, trainer=trainer)
            save_text(self.trainer.run_folder / "config.yaml", dump_config(of_all))


@dataclasses.dataclass(kw_only=True)
class TrainArgs(FineTuneArgs):
    """Fine-tune a Hugging Face model with LoRA on instruction data."""

    lora: LoraConfig = LoraConfig()
    initialize_from: str | None = None
    """Adapter to start from in place of a fresh one: a folder or hub name of PEFT's or lodos's, a run's folder, or one
    of its checkpoints."""
    initialize_optimizer: bool = False
    """Take the optimizer's moments along from there, which only a run of lodos has."""
    early_stopping: dict[str, int | float] | None = None
    """End before the last step, as {patience: 3, min_delta: 0.01} has it: when for so many evaluations in a row the
    held-out loss has not fallen by more than min_delta (0 by default). peft/best has the adapter of the lowest."""
    hf_save_keep: int | list[dict[str, int | None]] | None = None
    """How many of the newest adapters and merged models stay, or which, as for checkpointer.keep; the newest, and that
    of the step with the lowest held-out loss, always do. By default all."""
    save_merged: bool = False
    """Save merged models too, which Transformers loads without PEFT, by default in <run_dir>/<id>/merged."""
    merged_hf_save_path: str | None = None
    """Folder for merged models, as <merged_hf_save_path>/<id>/step-<k>; giving it saves them."""
    merged_hf_upload: str | None = None
    """Hub repository for merged models, as owner/name; giving it saves them."""
    merged_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the merged tensors; by default that of the base model's files."""

    def __post_init__(self) -> None:
        problems = []
        for check in (super().__post_init__, lambda: self.stops_early):
            try:
                check()
            except UserError as error:
                problems.append(str(error))
        if self.early_stopping is not None and self.validation is None:
            problems.append("early_stopping: goes by the held-out loss. Give validation, such as 0.05.")
        if self.hf_save_keep is not None:
            problems += keep_problems("hf_save_keep", self.hf_save_keep)
        if self.initialize_optimizer and self.initialize_from is None:
            problems.append("initialize_optimizer: needs initialize_from, the run whose optimizer it is.")
        if problems:
            raise UserError("\n".join(problems))

    @property
    def stops_early(self) -> EarlyStoppingConfig | None:
        """What `early_stopping` says."""
        return None if self.early_stopping is None else EarlyStoppingConfig.parse(self.early_stopping)
