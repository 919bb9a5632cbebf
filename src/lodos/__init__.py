"""LoRA fine-tuning of language models in JAX.

The public names, each where it is defined. They are imported when they are first used, so that `import lodos`
and the command line's help do not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lodos.version import __version__

if TYPE_CHECKING:
    from lodos.checkpoints import save_merged_hf_checkpoint_callback, save_peft_checkpoint_callback
    from lodos.config import TrainArgs
    from lodos.errors import UserError
    from lodos.formats.hf import HFCheckpointConverter
    from lodos.formats.peft import load_peft_pretrained, save_peft_pretrained
    from lodos.lora.config import LoraConfig
    from lodos.lora.filters import lora_trainable_params_filter
    from lodos.lora.transform import lora_parameter_count, loraize, merge_lora_modules
    from lodos.models.decoder import LmHeadModel
    from lodos.sharding import DeviceMesh, named_jit
    from lodos.train.config import CheckpointerConfig, TrainerConfig
    from lodos.train.optim import OptimizerConfig
    from lodos.train.trainer import Trainer
    from lodos.tree import combine, parameter_count, partition
    from lodos.types import LmExample

_HOMES = {
    "CheckpointerConfig": "lodos.train.config",
    "DeviceMesh": "lodos.sharding",
    "HFCheckpointConverter": "lodos.formats.hf",
    "LmExample": "lodos.types",
    "LmHeadModel": "lodos.models.decoder",
    "LoraConfig": "lodos.lora.config",
    "OptimizerConfig": "lodos.train.optim",
    "TrainArgs": "lodos.config",
    "Trainer": "lodos.train.trainer",
    "TrainerConfig": "lodos.train.config",
    "UserError": "lodos.errors",
    "combine": "lodos.tree",
    "load_peft_pretrained": "lodos.formats.peft",
    "lora_parameter_count": "lodos.lora.transform",
    "lora_trainable_params_filter": "lodos.lora.filters",
    "loraize": "lodos.lora.transform",
    "merge_lora_modules": "lodos.lora.transform",
    "named_jit": "lodos.sharding",
    "parameter_count": "lodos.tree",
    "partition": "lodos.tree",
    "save_merged_hf_checkpoint_callback": "lodos.checkpoints",
    "save_peft_checkpoint_callback": "lodos.checkpoints",
    "save_peft_pretrained": "lodos.formats.peft",
}

__all__ = [
    "CheckpointerConfig",
    "DeviceMesh",
    "HFCheckpointConverter",
    "LmExample",
    "LmHeadModel",
    "LoraConfig",
    "OptimizerConfig",
    "TrainArgs",
    "Trainer",
    "TrainerConfig",
    "UserError",
    "__version__",
    "combine",
    "load_peft_pretrained",
    "lora_parameter_count",
    "lora_trainable_params_filter",
    "loraize",
    "merge_lora_modules",
    "named_jit",
    "parameter_count",
    "partition",
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
