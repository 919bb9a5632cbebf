"""The keys of transformers' TrainingArguments, which TRL, Axolotl, LLaMA-Factory and Unsloth pass on."""

from collections.abc import Mapping
from typing import Any

from lodos.coming_from.advice import Advice, Computed, Entry, LeaveOut, Write, absent, leave_out
from lodos.coming_from.values import (
    FLOAT16,
    LEARNING_RATE,
    MESH,
    SEED,
    TRACKERS,
    above_zero,
    batch,
    clip,
    count_of_steps,
    folder_name,
    optimizer_type,
    precision,
    repository,
    schedule,
    text,
)

_STEPS = "Steps are counted here, not epochs: "


def _epochs(value: Any, given: Mapping[str, Any]) -> Advice:
    if (given.get("max_steps") or 0) > 0:
        return Advice(text="Leave it out: max_steps decides.")
    return Advice({"trainer.num_epochs": value})


def _saved(value: Any, given: Mapping[str, Any]) -> Advice:
    try:
        steps = count_of_steps("trainer.checkpointer.save_interval")(value)
    except ValueError as error:
        return Advice(text=str(error))
    settings = {"trainer.checkpointer.save_interval": steps, "hf_save_steps": steps}
    return Advice(settings, "The first is for checkpoints to resume from, the second for adapters.")


def _strategy(name: str, instead: str) -> Computed:
    def rule(value: Any, given: Mapping[str, Any]) -> Advice:
        if value == "epoch":
            return Advice(text=f"{_STEPS}write {instead}.")
        if value == "steps":
            return Advice(text=f"Leave it out: {name} are steps here.")
        return Advice(text="Leave it out: what is last is always kept.")

    return Computed(rule, (), f"Leave it out: {instead} says how often, in steps.")


def _schedule_arguments(value: Any, given: Mapping[str, Any]) -> Advice:
    if isinstance(value, Mapping) and "min_lr_rate" in value:
        return Advice({"optimizer.min_lr_ratio": value["min_lr_rate"]})
    return Advice(
        text="Write optimizer.min_lr_ratio: <share of learning_rate where the decay ends>; others are not here."
    )


def _warmup(value: Any, given: Mapping[str, Any]) -> Advice:
    return Advice({"optimizer.warmup": value}, "Below 1 it is a share of all steps.")


def _warmup_ratio(value: Any, given: Mapping[str, Any]) -> Advice:
    if given.get("warmup_steps"):
        return Advice(text="Leave it out: warmup_steps decides.")
    return _warmup(value, given)


def _checkpointing(value: Any, given: Mapping[str, Any]) -> Advice:
    word = "none" if not value or str(value).lower() in ("false", "none") else "full"
    return Advice(
        {"gradient_checkpointing": word},
        "dots recomputes little and keeps little; full keeps the least; the default, auto, goes by the memory.",
    )


CHECKPOINTING = Computed(
    _checkpointing,
    ("gradient_checkpointing",),
    "full for true, none for false; dots lies between, and auto, the default, goes by the memory.",
)

KEYS: dict[str, Entry] = {
    **leave_out("trust_remote_code", "code of a model's repository is never run."),
    "output_dir": Write("trainer.run_dir", str, "Each run has a folder of its own in it."),
    "num_train_epochs": Computed(_epochs, ("trainer.num_epochs",)),
    "max_steps": Write("trainer.num_train_steps", above_zero),
    **batch("per_device_train_batch_size", "gradient_accumulation_steps", default_micro=8),
    "per_device_eval_batch_size": Write("trainer.per_device_eval_parallelism"),
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": Write("optimizer.lr_schedule", schedule),
    "lr_scheduler_kwargs": Computed(_schedule_arguments, ("optimizer.min_lr_ratio",), "min_lr_rate alone."),
    "warmup_steps": Computed(_warmup, ("optimizer.warmup",), "Below 1 it is a share of all steps."),
    "warmup_ratio": Computed(_warmup_ratio, ("optimizer.warmup",), "Below 1 it is a share of all steps."),
    "optim": Write("optimizer.type", optimizer_type, "Only the adapter has an optimizer state, in 32 bits."),
    "weight_decay": Write("optimizer.weight_decay"),
    "adam_beta1": Write("optimizer.beta1"),
    "adam_beta2": Write("optimizer.beta2"),
    "adam_epsilon": Write("optimizer.epsilon"),
    "max_grad_norm": Write("optimizer.max_grad_norm", clip),
    "bf16": Write("trainer.mp", precision),
    "fp16": FLOAT16,
    "gradient_checkpointing": CHECKPOINTING,
    "activation_checkpointing": CHECKPOINTING,
    "report_to": TRACKERS,
    "run_name": Write("trainer.id", folder_name, "The id of a run that stopped resumes it."),
    "eval_steps": Write("trainer.steps_per_eval", count_of_steps("trainer.steps_per_eval")),
    "eval_strategy": _strategy("evaluations", "trainer.steps_per_eval"),
    "evaluation_strategy": _strategy("evaluations", "trainer.steps_per_eval"),
    "save_steps": Computed(_saved, ("trainer.checkpointer.save_interval", "hf_save_steps")),
    "save_strategy": _strategy("saves", "trainer.checkpointer.save_interval and hf_save_steps"),
    "save_total_limit": Write("trainer.checkpointer.keep", remark="Adapters are all kept."),
    "hub_model_id": Write("hf_upload", repository, "The adapter goes there while training goes on."),
    "hub_private_repo": Write("hf_private"),
    "seed": SEED,
    "data_seed": SEED,
    **leave_out("do_train do_eval do_predict", "lodos train trains, and evaluates where validation is given."),
    **leave_out("overwrite_output_dir", "each run has a folder of its own."),
    **leave_out("average_tokens_across_devices", "the loss is always over all trained tokens of the whole batch."),
    **leave_out(
        "logging_steps logging_strategy logging_first_step logging_dir logging_nan_inf_filter log_level "
        "log_level_replica log_on_each_node disable_tqdm include_num_input_tokens_seen include_tokens_per_second",
        "the numbers of every step are in log.jsonl.",
    ),
    **leave_out(
        "load_best_model_at_end metric_for_best_model greater_is_better", "peft/best has the lowest held-out loss."
    ),
    **leave_out("push_to_hub push_to_hub_model_id push_to_hub_organization", "hf_upload: owner/name uploads."),
    **leave_out("hub_strategy hub_always_push", "each adapter that is saved is uploaded where hf_upload is given."),
    **leave_out("hub_token push_to_hub_token", "the hub's token is taken from HF_TOKEN, or from hf auth login."),
    **leave_out("resume_from_checkpoint", "trainer.id with the name of a run that stopped resumes it."),
    **leave_out(
        "ignore_data_skip restore_callback_states_from_checkpoint enable_jit_checkpoint", "a run resumes whole."
    ),
    **leave_out(
        "save_safetensors save_on_each_node save_only_model", "adapters are safetensors, checkpoints a folder apart."
    ),
    **leave_out(
        "gradient_checkpointing_kwargs activation_checkpointing_kwargs use_cache",
        "gradient_checkpointing is auto, none, dots or full.",
    ),
    **leave_out(
        "torch_compile torch_compile_backend torch_compile_mode torchdynamo jit_mode_eval torch_empty_cache_steps "
        "skip_memory_metrics use_liger_kernel liger_kernel_config",
        "the step is compiled, with attention, LoRA and loss of its own.",
    ),
    **leave_out("tf32", "set JAX_DEFAULT_MATMUL_PRECISION in the environment."),
    **leave_out(
        "half_precision_backend fp16_opt_level fp16_full_eval bf16_full_eval", "trainer.mp says the precision."
    ),
    **leave_out("use_cpu no_cuda", "set JAX_PLATFORMS=cpu in the environment."),
    **leave_out(
        "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
        "dataloader_drop_last dataloader_multiprocessing_context dataloader_in_order accelerator_config",
        "batches are made ahead, and an epoch has every row.",
    ),
    **leave_out("remove_unused_columns label_names", "columns are found by their names."),
    **leave_out(
        "group_by_length length_column_name train_sampling_strategy", "rows are shuffled; packing: true saves filler."
    ),
    **leave_out(
        "fsdp fsdp_config fsdp_min_num_params deepspeed parallelism_config local_rank ddp_backend ddp_timeout "
        "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph",
        MESH,
    ),
    **leave_out(
        "prediction_loss_only eval_accumulation_steps eval_do_concat_batches eval_use_gather_object "
        "include_for_metrics include_inputs_for_metrics batch_eval_metrics eval_delay",
        "what is evaluated is the loss.",
    ),
    **leave_out("full_determinism", "the same settings on the same devices give the same numbers."),
    **leave_out("trackio_bucket_id trackio_static_space_id trackio_space_id", "numbers stay on this machine."),
    "project": Write("trainer.tracker", lambda value: {"type": "trackio", "project": text(value)}),
    **absent("eval_on_start", "The first evaluation is after trainer.steps_per_eval steps."),
    **absent(
        "optim_args optim_target_modules", "The optimizers are AdamW, Adam, Lion, SGD and Adafactor, by optimizer."
    ),
    **absent("label_smoothing_factor", "There is no label smoothing here."),
    **absent("neftune_noise_alpha", "There is no NEFTune noise here."),
    **absent(
        "auto_find_batch_size",
        "trainer.per_device_parallelism: auto, the default, is as many as fit; the loss stays the same.",
    ),
    **absent("hub_revision", "Uploads go to the main branch."),
    **absent("debug", "LODOS_DEBUG=1 in the environment shows tracebacks."),
}
"""The older names among them too."""


def without(names: str) -> dict[str, Entry]:
    """The table without keys that a tool has otherwise or not."""
    return {key: entry for key, entry in KEYS.items() if key not in names.split()}


TENSORBOARD = LeaveOut("trainer.tracker: {type: tensorboard} writes event files.")
