"""Unsloth's from_pretrained and get_peft_model, and the YAML of `unsloth train`."""

from collections.abc import Mapping
from typing import Any

from lodos.coming_from.advice import IDLE, Absent, Advice, Computed, Entry, LeaveOut, Tool, Write, absent, leave_out
from lodos.coming_from.training_arguments import CHECKPOINTING, TENSORBOARD
from lodos.coming_from.trl import ABSENT_IN_LORA, MASKING, TRL
from lodos.coming_from.trl import KEYS as TRL_KEYS
from lodos.coming_from.values import (
    BITS,
    CUT,
    FULL,
    LEARNING_RATE,
    SEED,
    TRACKERS,
    above_zero,
    batch,
    target_modules,
    text,
)


def _wandb(value: Any, given: Mapping[str, Any]) -> Advice:
    project = given.get("logging.wandb_project", "unsloth-training")
    return Advice({"trainer.wandb": {"project": text(project)}}) if value else IDLE


def _tensorboard(value: Any, given: Mapping[str, Any]) -> Advice:
    return Advice({"trainer.tracker": [{"type": "tensorboard"}]}) if value else IDLE


_FULL = Absent(FULL)
_TOKEN = LeaveOut("the hub's token is taken from HF_TOKEN, or from hf auth login.")
_TRAINING: dict[str, Entry] = {
    **batch("training.batch_size", "training.gradient_accumulation_steps", default_micro=2),
    "training.training_type": Absent(FULL, ("lora",)),
    "training.max_seq_length": CUT,
    "training.load_in_4bit": BITS,
    "training.output_dir": Write("trainer.run_dir", str, "Each run has a folder of its own in it."),
    "training.num_epochs": Write("trainer.num_epochs", above_zero),
    "training.max_steps": Write("trainer.num_train_steps", above_zero),
    "training.learning_rate": LEARNING_RATE,
    "training.warmup_ratio": Write("optimizer.warmup"),
    "training.eval_steps": TRL_KEYS["eval_steps"],
    "training.warmup_steps": Write("optimizer.warmup"),
    "training.save_steps": TRL_KEYS["save_steps"],
    "training.weight_decay": Write("optimizer.weight_decay"),
    "training.optim": TRL_KEYS["optim"],
    "training.lr_scheduler_type": TRL_KEYS["lr_scheduler_type"],
    "training.random_seed": SEED,
    "training.packing": Write("packing"),
    "training.train_on_completions": MASKING,
    "training.gradient_checkpointing": CHECKPOINTING,
}

KEYS: dict[str, Entry] = {
    **TRL_KEYS,
    **_TRAINING,
    "model": TRL_KEYS["model_name"],
    "load_in_16bit": LeaveOut("trainer.mp: p=f32,c=bfloat16 holds the base in 16 bits."),
    "load_in_fp8": BITS,
    "full_finetuning": _FULL,
    "random_state": SEED,
    "use_gradient_checkpointing": CHECKPOINTING,
    "token": _TOKEN,
    "data.dataset": Write("data"),
    "data.local_dataset": Write("data"),
    "data.format_type": LeaveOut("what rows are goes by their columns; format says it otherwise."),
    "lora.lora_r": Write("lora.r"),
    "lora.lora_alpha": Write("lora.alpha"),
    "lora.lora_dropout": Write("lora.dropout"),
    "lora.target_modules": Write("lora.target_modules", target_modules, otherwise_meant=True),
    "logging.enable_wandb": Computed(_wandb, ("trainer.wandb",), "With logging.wandb_project."),
    "logging.wandb_project": LeaveOut("trainer.wandb: {project: ...} logs to W&B."),
    "logging.enable_tensorboard": Computed(_tensorboard, ("trainer.tracker",)),
    "logging.tensorboard_dir": TENSORBOARD,
    "logging.log_frequency": LeaveOut("the numbers of every step are in log.jsonl."),
    "logging.wandb_token": LeaveOut("W&B takes its key from WANDB_API_KEY, or from wandb login."),
    "logging.hf_token": _TOKEN,
    "report_to": TRACKERS,
    "revision": TRL_KEYS["model_revision"],
    **leave_out(
        "device_map device_map_planner_kwargs offload_embedding unsloth_tiled_mlp float32_mixed_precision "
        "unsloth_force_compile fullgraph return_logits auto_model use_exact_model_name text_only",
        "weights are read from the files, each device its share.",
    ),
    **leave_out("fix_tokenizer tokenizer_name", "the tokenizer is that of the model's folder."),
    **leave_out(
        "fast_inference gpu_memory_utilization float8_kv_cache max_lora_rank disable_log_stats temporary_location",
        "lodos generate asks the adapter.",
    ),
    **absent("lora.use_loftq lora.use_dora lora.vision_all_linear", "There is plain LoRA here."),
    **absent("finetune_vision_layers lora.finetune_vision_layers", "Models are of text.", (True,)),
    **absent(
        "finetune_language_layers finetune_attention_modules finetune_mlp_modules lora.finetune_language_layers "
        "lora.finetune_attention_modules lora.finetune_mlp_modules",
        "lora.target_modules says which layers; by default every linear one.",
        (True,),
    ),
    **absent("rope_scaling qat_scheme resize_model_vocab", "The model is what its config.json says."),
    **absent("finetune_last_n_layers", "A regex in lora.target_modules takes some layers: .*layers\\.[0-7]\\..*"),
    **absent("offload_layers checkpoint_skip_layers", "gradient_checkpointing: full keeps the least memory."),
    **absent("embedding_learning_rate", "There is one learning rate."),
    **ABSENT_IN_LORA,
}

_OURS = ("max_tune_length", "lora.dropout", "lora.target_modules")
"""Of its defaults, those that are lodos' too."""
DEFAULTS = {
    **{name: value for name, value in TRL.defaults.items() if name not in _OURS},
    "lora.alpha": 16.0,
    "trainer.seed": 3407,
}

UNSLOTH = Tool("Unsloth", KEYS, DEFAULTS)
