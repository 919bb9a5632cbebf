"""torchtune's recipes of LoRA fine-tuning. A value that refers to another, ${output_dir}, is to be written out."""

from collections.abc import Mapping
from typing import Any

from lodos.coming_from.advice import Absent, Advice, Computed, Entry, LeaveOut, Tool, Write, absent, leave_out
from lodos.coming_from.training_arguments import CHECKPOINTING
from lodos.coming_from.values import (
    BITS,
    CUT,
    LEARNING_RATE,
    MODEL,
    SEED,
    above_zero,
    batch,
    clip,
    negated,
    optimizer_type,
    precision,
    schedule,
    text,
)

_DATASETS = {
    "alpaca_dataset": "tatsu-lab/alpaca",
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
    "slimorca_dataset": "Open-Orca/SlimOrca-Dedup",
}
_MLP = ["gate_proj", "up_proj", "down_proj"]


def _targets(value: Any, given: Mapping[str, Any]) -> Advice:
    names = [{"output_proj": "o_proj"}.get(name, name) for name in given.get("model.lora_attn_modules") or []]
    if given.get("model.apply_lora_to_mlp"):
        names += _MLP
    remark = "The output head is adapted nowhere." if given.get("model.apply_lora_to_output") else ""
    return Advice({"lora.target_modules": names}, remark) if names else Advice(text="Write lora.target_modules.")


def _component(value: Any, given: Mapping[str, Any]) -> Advice:
    if "qlora" in str(value) or given.get("model.quantize_base"):
        return BITS.advice(True, given)
    return Advice(text="Leave it out: the model's shape comes from its config.json, the task is LoRA's.")


def _dataset(value: Any, given: Mapping[str, Any]) -> Advice:
    name = str(value).rsplit(".", 1)[-1]
    if (source := given.get("dataset.source", _DATASETS.get(name))) is None:
        return Advice(text="Write data: a file, folder or hub name; what rows are goes by their columns.")
    if source in ("json", "csv", "parquet") and given.get("dataset.data_files"):
        source = given["dataset.data_files"]
    split = given.get("dataset.split", "train")
    return Advice({"data": source if split == "train" else {"path": source, "split": split}})


def _optimizer(value: Any) -> str:
    return optimizer_type(str(value).replace("8bit", "").replace("Paged", "").rsplit(".", 1)[-1])


def _betas(value: Any, given: Mapping[str, Any]) -> Advice:
    if isinstance(value, list) and len(value) == 2:
        return Advice({"optimizer.beta1": value[0], "optimizer.beta2": value[1]})
    return Advice(text="Write optimizer.beta1 and optimizer.beta2.")


def _logger(value: Any, given: Mapping[str, Any]) -> Advice:
    name = str(value)
    if "WandB" in name:
        return Advice({"trainer.wandb": {}})
    if "TensorBoard" in name:
        return Advice({"trainer.tracker": [{"type": "tensorboard"}]})
    return Advice(text="Leave it out: the numbers of every step are in log.jsonl.")


_TARGETS = Computed(_targets, ("lora.target_modules",), "By Hugging Face's names: output_proj is o_proj.")
_DATA = Computed(_dataset, ("data",), "The hub name or file; what rows are goes by their columns.")

KEYS: dict[str, Entry] = {
    **batch("batch_size", "gradient_accumulation_steps", default_micro=2),
    "model._component_": Computed(_component, (), "Leave it out: the model's shape comes from its config.json."),
    "model.lora_rank": Write("lora.r"),
    "model.lora_alpha": Write("lora.alpha"),
    "model.lora_dropout": Write("lora.dropout"),
    "model.lora_attn_modules": _TARGETS,
    "model.apply_lora_to_mlp": _TARGETS,
    "model.apply_lora_to_output": Absent("The output head is not adapted by default: see lora.target_modules."),
    "model.quantize_base": BITS,
    "model.use_dora": Absent("There is no DoRA here, only LoRA."),
    "checkpointer.checkpoint_dir": MODEL,
    "checkpointer.output_dir": Write("hf_save_path", str, "Adapters are in <hf_save_path>/<id>/step-<k>."),
    "tokenizer.max_seq_len": CUT,
    "dataset._component_": _DATA,
    "dataset.source": _DATA,
    "dataset.train_on_input": Write("mask_inputs", negated),
    "dataset.packed": Write("packing", bool),
    "dataset.column_map": Write(
        "columns", remark="Our name: its name, such as {instruction: question, output: answer}."
    ),
    "seed": SEED,
    "epochs": Write("trainer.num_epochs"),
    "max_steps_per_epoch": Absent("Write trainer.num_train_steps: <steps of all epochs>, without num_epochs."),
    "optimizer._component_": Write("optimizer.type", _optimizer),
    "optimizer.lr": LEARNING_RATE,
    "optimizer.eps": Write("optimizer.epsilon"),
    "optimizer.betas": Computed(_betas, ("optimizer.beta1", "optimizer.beta2")),
    "lr_scheduler._component_": Write("optimizer.lr_schedule", schedule),
    "lr_scheduler.num_warmup_steps": Write("optimizer.warmup"),
    "clip_grad_norm": Write("optimizer.max_grad_norm", clip, null=True),
    "max_steps": Write("trainer.num_train_steps", above_zero),
    "output_dir": Write("trainer.run_dir", str, "Each run has a folder of its own in it."),
    "dtype": Write("trainer.mp", precision),
    "enable_activation_checkpointing": CHECKPOINTING,
    "metric_logger._component_": Computed(
        _logger, ("trainer.wandb", "trainer.tracker"), "log.jsonl is always written."
    ),
    "metric_logger.project": Write("trainer.wandb.project", text),
    "resume_from_checkpoint": LeaveOut("trainer.id with the name of a run that stopped resumes it."),
    **leave_out(
        "tokenizer._component_ tokenizer.path tokenizer.merges_file tokenizer.special_tokens_path "
        "tokenizer.prompt_template tokenizer.merges_path tokenizer.vocab_path",
        "the tokenizer is that of the model's folder.",
    ),
    **leave_out(
        "checkpointer._component_ checkpointer.checkpoint_files checkpointer.recipe_checkpoint "
        "checkpointer.model_type checkpointer.adapter_checkpoint checkpointer.safe_serialization",
        "weights are found in the model's folder.",
    ),
    **leave_out(
        "dataset.data_files dataset.split dataset.conversation_style dataset.conversation_column "
        "dataset.new_system_prompt dataset.chat_format dataset.packed_sequence_length",
        "it is in data, or goes by the columns.",
    ),
    **leave_out(
        "optimizer.fused optimizer.foreach lr_scheduler.num_cycles", "the optimizer is compiled with the step."
    ),
    **leave_out("loss loss._component_ loss.num_output_chunks", "logits are computed for trained tokens alone."),
    **leave_out("compile", "the step is always compiled."),
    **leave_out(
        "metric_logger.log_dir metric_logger.output_dir log_every_n_steps log_peak_memory_stats log_level",
        "the numbers of every step are in log.jsonl.",
    ),
    **leave_out(
        "shuffle dataloader.shuffle dataloader.num_workers dataloader.pin_memory",
        "rows are shuffled anew each epoch.",
    ),
    **leave_out(
        "device tensor_parallel_dim data_parallel_shard_dim fsdp_cpu_offload custom_sharded_layers",
        "all devices share the batch: see trainer.model_axis_size and fsdp_axis.",
    ),
    **leave_out("save_adapter_weights_only", "adapters are saved; save_merged: true saves merged models too."),
    **leave_out("optimizer_in_bwd enable_async_checkpointing epochs_to_save", "it changes nothing here."),
    **leave_out(
        "profiler._component_ profiler.enabled profiler.output_dir profiler.cpu profiler.cuda profiler.xpu "
        "profiler.profile_memory profiler.with_stack profiler.record_shapes profiler.with_flops profiler.wait_steps "
        "profiler.warmup_steps profiler.active_steps profiler.num_cycles",
        "jax.profiler traces a script of your own.",
    ),
    **absent("enable_activation_offloading", "gradient_checkpointing: full keeps the least memory."),
    **absent("cudnn_deterministic_mode", "The same settings on the same devices give the same numbers."),
}

DEFAULTS = {
    "mask_inputs": False,
    "gradient_checkpointing": "none",
    "optimizer.weight_decay": 0.01,
    "optimizer.lr_schedule": "constant",
    "optimizer.warmup": 0,
    "optimizer.max_grad_norm": None,
}
"""Most else stands in its recipes' configs."""

TORCHTUNE = Tool("torchtune", KEYS, DEFAULTS)
