"""TRL's SFTConfig, ModelConfig and ScriptArguments, and PEFT's LoraConfig."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lodos.coming_from.advice import Absent, Advice, Computed, Entry, LeaveOut, Tool, Write, absent, leave_out
from lodos.coming_from.training_arguments import KEYS as TRAINING_ARGUMENTS
from lodos.coming_from.values import BITS, CUT, FEWER_BITS, FULL, HALF, MODEL, precision, target_modules


def _data(value: Any, given: Mapping[str, Any]) -> Advice:
    parts = {"name": given.get("dataset_config"), "split": given.get("dataset_train_split")}
    mapping = {"path": value} | {key: part for key, part in parts.items() if part not in (None, "train")}
    return Advice({"data": mapping if len(mapping) > 1 else value})


def _held_out(value: Any, given: Mapping[str, Any]) -> Advice:
    return Advice({"validation": f"split:{value}"})


def _attention(value: Any, given: Mapping[str, Any]) -> Advice:
    if value == "eager":
        return Advice({"attn_implementation": "plain"})
    return Advice(text="Leave it out: the fastest that the device has is taken. Examples of a packed row never meet.")


def _init(value: Any, given: Mapping[str, Any]) -> Advice:
    if value is True or value == "gaussian":
        return Advice({"lora.init": "default" if value is True else "gaussian"})
    return Advice(text="Write lora.init: default, gaussian or zero_a; others are not here.")


def _only_answers(value: Any, given: Mapping[str, Any]) -> Advice:
    if value is None:
        return Advice(text="Leave it out: only answers are trained by default.")
    return Advice({"mask_inputs": bool(value)})


def _text_column(value: Any) -> dict[str, str]:
    if value == "text":
        raise ValueError("Leave it out: a column named text is found.")
    return {"text": value}


def _template(value: Any) -> str:
    if Path(str(value)).suffix not in (".jinja", ".jinja2", ".j2", ".txt"):
        raise ValueError("Write chat_template: a Jinja file. By default it is that of the model's tokenizer.")
    return value


def _use_peft(value: Any, given: Mapping[str, Any]) -> Advice:
    return Advice(text="Leave it out: lodos train adapts with LoRA." if value else FULL)


MASKING = Computed(_only_answers, ("mask_inputs",), "Only answers are trained by default.")
INIT = Computed(_init, ("lora.init",), "true is default; gaussian.")
ATTENTION = Computed(_attention, ("attn_implementation",), "eager is plain; otherwise the device decides.")

ABSENT_IN_LORA: Mapping[str, Entry] = {
    **absent("modules_to_save", "Only adapters are trained, none of the model's own layers."),
    **absent(
        "layers_to_transform layers_pattern", "A regex in lora.target_modules takes some layers: .*layers\\.[0-7]\\..*"
    ),
    **absent("use_dora", "There is no DoRA here, only LoRA."),
    **absent("target_parameters layer_replication trainable_token_indices", "LoRA is for linear layers here."),
    **absent("loftq_config eva_config corda_config", "Adapters start with a factor of zero: see lora.init."),
    **absent("lora_bias bias", "Biases are not trained.", ("none",)),
    **absent("megatron_config alora_invocation_tokens use_qalora arrow_config", "There is plain LoRA here."),
}
"""Of PEFT's LoraConfig."""

PEFT: Mapping[str, Entry] = {
    "r": Write("lora.r"),
    "lora_alpha": Write("lora.alpha"),
    "lora_dropout": Write("lora.dropout"),
    "target_modules": Write("lora.target_modules", target_modules),
    "exclude_modules": Write("lora.exclude_modules"),
    "use_rslora": Write("lora.use_rslora"),
    "rank_pattern": Write("lora.rank_pattern"),
    "alpha_pattern": Write("lora.alpha_pattern"),
    "init_lora_weights": INIT,
    "base_model_name_or_path": MODEL,
    **leave_out(
        "task_type peft_type inference_mode auto_mapping peft_version", "the task is a causal language model's."
    ),
    **leave_out("fan_in_fan_out runtime_config ensure_weight_tying", "weights have the layout of the model's files."),
    **ABSENT_IN_LORA,
}
"""PEFT's LoraConfig."""

KEYS: dict[str, Entry] = {
    **TRAINING_ARGUMENTS,
    **PEFT,
    "dataset_name": Computed(_data, ("data",), "With dataset_config as name, and dataset_train_split as split."),
    "dataset_config": LeaveOut("it is the name in data: {path: ..., name: ...}."),
    "dataset_train_split": LeaveOut("it is the split in data: {path: ..., split: ...}; train by default."),
    "dataset_test_split": Computed(_held_out, ("validation",), "split:<name> of data."),
    "dataset_streaming": Write("streaming"),
    "dataset_text_field": Write("columns", _text_column),
    "max_length": CUT,
    "max_seq_length": CUT,
    "completion_only_loss": MASKING,
    "assistant_only_loss": MASKING,
    "chat_template_path": Write("chat_template", _template),
    "dtype": Write("trainer.mp", precision),
    "torch_dtype": Write("trainer.mp", precision),
    "attn_implementation": ATTENTION,
    "use_peft": Computed(_use_peft, (), "Leave it out: lodos train adapts with LoRA."),
    "lora_r": Write("lora.r"),
    "lora_target_modules": Write("lora.target_modules", target_modules),
    "load_in_4bit": BITS,
    "load_in_8bit": BITS,
    "model_name": MODEL,
    "model_revision": Absent("Write the folder of that revision: hf download <name> --revision <revision>.", ("main",)),
    "padding_free": LeaveOut("packing: true fills the rows of a batch."),
    **absent("packing_strategy", "packing never cuts a row; where it does not fit, another row begins.", ("bfd",)),
    **leave_out("eval_packing", "held-out rows are packed as training rows are."),
    **leave_out("shuffle_dataset", "rows are shuffled anew each epoch."),
    **leave_out("pad_to_multiple_of pad_token", "the length of a batch is chosen, and filler is never trained."),
    **leave_out(
        "dataset_num_proc dataset_batch_size dataset_kwargs ignore_bias_buffers", "rows are prepared on all cores."
    ),
    **leave_out("lora_task_type", "the task is a causal language model's."),
    **leave_out("bnb_4bit_quant_type bnb_4bit_compute_dtype use_bnb_nested_quant bnb_4bit_quant_storage", FEWER_BITS),
    **absent("truncation_mode", "overflow: truncate cuts at the end.", ("keep_start",)),
    **absent("loss_type", "The loss is that of the next token.", ("nll", "chunked_nll")),
    **absent("eos_token", "A turn ends as the chat template says, other text in the tokenizer's EOS."),
    **absent(
        "model_init_kwargs",
        "The model's shape comes from its config.json; trainer.mp and attn_implementation say the rest.",
    ),
    **absent("activation_offloading", "gradient_checkpointing: full keeps the least memory."),
    **absent("router_aux_loss_coef", "There are no mixtures of experts here."),
    **absent("lora_target_parameters lora_modules_to_save", "Only adapters of linear layers are trained."),
    **absent("num_of_sequences chars_per_token", "packing: true fills rows of max_tune_length tokens."),
}

DEFAULTS = {
    "max_tune_length": 1024,
    "overflow": "truncate",
    "gradient_checkpointing": "full",
    "lora.r": 16,
    "lora.alpha": 32.0,
    "lora.dropout": 0.05,
    "lora.target_modules": ["q_proj", "v_proj"],
    "optimizer.learning_rate": 2e-5,
    "optimizer.lr_schedule": "linear",
    "optimizer.warmup": 0,
    "trainer.mp": HALF,
    "trainer.seed": 42,
    "trainer.train_batch_size": 8,
    "trainer.per_device_parallelism": 8,
    "trainer.checkpointer.save_interval": 500,
}
"""Of SFTConfig and ModelConfig; the layers are those that PEFT takes for the models that are here."""

TRL = Tool("TRL and PEFT", KEYS, DEFAULTS)
