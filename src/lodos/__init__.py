"""LoRA fine-tuning of language models in JAX.

The public names, each where it is defined. They are imported when they are first used, so that `import lodos`
and the command line's help do not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lodos.version import __version__

if TYPE_CHECKING:
    from lodos.checkpoints import (
        save_hf_checkpoint_callback,
        save_merged_hf_checkpoint_callback,
        save_peft_checkpoint_callback,
    )
    from lodos.cli import run_script
    from lodos.commands.loaders import make_loaders
    from lodos.commands.run_log import RunLog
    from lodos.commands.uploads import checked_uploads
    from lodos.config import FineTuneArgs, TrainArgs
    from lodos.errors import UserError
    from lodos.formats.hf import HFCheckpointConverter
    from lodos.formats.peft import load_peft_pretrained, save_peft_pretrained
    from lodos.jit import named_jit
    from lodos.lora.config import LoraConfig
    from lodos.lora.filters import lora_trainable_params_filter
    from lodos.lora.transform import lora_parameter_count, loraize, merge_lora_modules
    from lodos.models.decoder import LmHeadModel
    from lodos.models.vocabulary import resize_vocab
    from lodos.sharding import DeviceMesh
    from lodos.train.config import CheckpointerConfig, TrainerConfig
    from lodos.train.evaluation import EvaluationHook
    from lodos.train.optim import OptimizerConfig
    from lodos.train.state import TrainerState
    from lodos.train.trainer import Trainer
    from lodos.tree import combine, parameter_count, partition
    from lodos.types import LmExample

_HOMES = {
    "CheckpointerConfig": "lodos.train.config",
    "DeviceMesh": "lodos.sharding",
    "EvaluationHook": "lodos.train.evaluation",
    "FineTuneArgs": "lodos.config",
    "HFCheckpointConverter": "lodos.formats.hf",
    "LmExample": "lodos.types",
    "LmHeadModel": "lodos.models.decoder",
    "LoraConfig": "lodos.lora.config",
    "OptimizerConfig": "lodos.train.optim",
    "RunLog": "lodos.commands.run_log",
    "TrainArgs": "lodos.config",
    "Trainer": "lodos.train.trainer",
    "TrainerConfig": "lodos.train.config",
    "TrainerState": "lodos.train.state",
    "UserError": "lodos.errors",
    "checked_uploads": "lodos.commands.uploads",
    "combine": "lodos.tree",
    "load_peft_pretrained": "lodos.formats.peft",
    "lora_parameter_count": "lodos.lora.transform",
    "lora_trainable_params_filter": "lodos.lora.filters",
    "loraize": "lodos.lora.transform",
    "make_loaders": "lodos.commands.loaders",
    "merge_lora_modules": "lodos.lora.transform",
    "named_jit": "lodos.jit",
    "parameter_count": "lodos.tree",
    "partition": "lodos.tree",
    "resize_vocab": "lodos.models.vocabulary",
    "run_script": "lodos.cli",
    "save_hf_checkpoint_callback": "lodos.checkpoints",
    "save_merged_hf_checkpoint_callback": "lodos.checkpoints",
    "save_peft_checkpoint_callback": "lodos.checkpoints",
    "save_peft_pretrained": "lodos.formats.peft",
}

__all__ = [
    "CheckpointerConfig",
    "DeviceMesh",
    "EvaluationHook",
    "FineTuneArgs",
    "HFCheckpointConverter",
    "LmExample",
    "LmHeadModel",
    "LoraConfig",
    "OptimizerConfig",
    "RunLog",
    "TrainArgs",
    "Trainer",
    "TrainerConfig",
    "TrainerState",
    "UserError",
    "__version__",
    "checked_uploads",
    "combine",
    "load_peft_pretrained",
    "lora_parameter_count",
    "lora_trainable_params_filter",
    "loraize",
    "make_loaders",
    "merge_lora_modules",
    "named_jit",
    "parameter_count",
    "partition",
    "resize_vocab",
    "run_script",
    "save_hf_checkpoint_callback",
    "save_merged_hf_checkpoint_callback",
    "save_peft_checkpoint_callback",
    "save_peft_pretrained",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lodos' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
