"""LLaMA-Factory's YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lodos.coming_from.advice import IDLE, Absent, Advice, Computed, Entry, LeaveOut, Tool, Write, absent, leave_out
from lodos.coming_from.training_arguments import KEYS as TRAINING_ARGUMENTS
from lodos.coming_from.values import (
    BITS,
    CUT,
    FULL,
    HALF,
    VALIDATION,
    negated,
    optimizer_type,
    precision,
    target_modules,
)


def _stage(value: Any, given: Mapping[str, Any]) -> Advice:
    if value == "sft":
        return Advice(text="Leave it out: fine-tuning is supervised.")
    if value == "pt":
        return Advice({"format": "text"}, "Rows of text alone.")
    return Advice(text="There is supervised fine-tuning here, no learning from preferences.")


def _finetuning(value: Any, given: Mapping[str, Any]) -> Advice:
    if value == "lora":
        return Advice(text="Leave it out: lodos train adapts with LoRA.")
    return Advice(text=FULL if value == "full" else "Only LoRA is here.")


def _names(value: Any) -> Any:
    """Files and hub names are sources; other names stand in a file of LLaMA-Factory's."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("no names.")
    if all(Path(name).suffix in (".json", ".jsonl", ".csv", ".parquet") for name in names):
        return names[0] if len(names) == 1 else names
    raise ValueError("a name in dataset_info.json.")


def _sources(to: str) -> Computed:
    def rule(value: Any, given: Mapping[str, Any]) -> Advice:
        try:
            return Advice({to: _names(value)})
        except ValueError:
            return Advice(text=f"Write {to}: <the file or hub name that dataset_info.json has for it>.")

    return Computed(rule, (to,), "The file or hub name that dataset_info.json has for it.")


def _last_turn(value: Any) -> str:
    return "last" if value else "all"


def _thinking(value: Any, given: Mapping[str, Any]) -> Advice:
    return IDLE if value is True else Advice({"chat_template_kwargs": {"enable_thinking": value}})


def _doubled_rank(value: Any, given: Mapping[str, Any]) -> Advice:
    settings: dict[str, Any] = {"lora.r": value}
    if given.get("lora_alpha") is None and isinstance(value, int):
        settings["lora.alpha"] = 2 * value
        return Advice(settings, "lora_alpha is twice the rank by default there.")
    return Advice(settings)


def _pure(value: Any, given: Mapping[str, Any]) -> Advice:
    return Advice({"trainer.mp": HALF} if value else {}, "The adapter stays in float32." if value else "Leave it out.")


KEYS: dict[str, Entry] = {
    **TRAINING_ARGUMENTS,
    "stage": Computed(_stage, (), "sft can be left out; pt is format: text."),
    "finetuning_type": Computed(_finetuning, (), "lora can be left out."),
    "lora_rank": Computed(_doubled_rank, ("lora.r", "lora.alpha"), "lora_alpha is twice the rank by default there."),
    "lora_alpha": Write("lora.alpha"),
    "lora_dropout": Write("lora.dropout"),
    "lora_target": Write("lora.target_modules", target_modules, "all is all-linear, which is the default."),
    "use_rslora": Write("lora.use_rslora"),
    "dataset": _sources("data"),
    "eval_dataset": _sources("validation"),
    "dataset_dir": LeaveOut("data is a file, a folder or a hub name itself."),
    "template": LeaveOut(
        "chats are written by the tokenizer's own template; chat_template: <a Jinja file> gives another."
    ),
    "cutoff_len": CUT,
    "train_on_prompt": Write("mask_inputs", negated),
    "mask_history": Write("train_on_turns", _last_turn),
    "val_size": VALIDATION,
    "neat_packing": Write("packing", bool, "Examples of a packed row never see each other."),
    "buffer_size": Write("shuffle_buffer"),
    "tokenized_path": Write("data_cache_dir"),
    "enable_thinking": Computed(
        _thinking, ("chat_template_kwargs",), "The variable of the chat template: {enable_thinking: false}."
    ),
    "split_special_tokens": Write("special_tokens_as_text"),
    "quantization_bit": BITS,
    "pure_bf16": Computed(_pure, ("trainer.mp",), "The adapter stays in float32."),
    "optim": Write("optimizer.type", optimizer_type, "Only the adapter has an optimizer state, in 32 bits."),
    "compute_dtype": Write("trainer.mp", precision),
    "cache_dir": LeaveOut("models are in Hugging Face's cache: set HF_HUB_CACHE in the environment."),
    "adapter_name_or_path": Write("initialize_from"),
    "model_revision": Absent("Write the folder of that revision: hf download <name> --revision <revision>.", ("main",)),
    "disable_gradient_checkpointing": Write("gradient_checkpointing", lambda value: "none" if value else "full"),
    **leave_out(
        "flash_attn use_unsloth use_unsloth_gc use_reentrant_gc enable_liger_kernel use_v1_kernels",
        "attention, LoRA and loss have kernels of their own, as the device allows.",
    ),
    **leave_out(
        "overwrite_cache preprocessing_num_workers preprocessing_batch_size data_shared_file_system",
        "rows are tokenized on all cores and kept; they are made anew where something changed.",
    ),
    **leave_out(
        "plot_loss include_effective_tokens_per_second print_param_status compute_accuracy",
        "the numbers of every step are in log.jsonl.",
    ),
    **leave_out(
        "quantization_method quantization_type double_quantization quantization_device_map device_map",
        "the base is held in the dtype of trainer.mp, each device its share.",
    ),
    **leave_out(
        "use_fast_tokenizer low_cpu_mem_usage upcast_layernorm upcast_lmhead_output ignore_pad_token_for_loss "
        "infer_backend infer_dtype use_kv_cache offload_folder media_dir create_new_adapter ray_num_workers "
        "ray_init_kwargs master_addr master_port ray_run_name ray_storage_path resources_per_worker",
        "it changes nothing here.",
    ),
    **leave_out(
        "hf_hub_token ms_hub_token om_hub_token", "the hub's token is taken from HF_TOKEN, or from hf auth login."
    ),
    **leave_out(
        "export_dir export_size export_device export_legacy_format export_hub_model_id",
        "lodos merge --adapter <folder> --output <folder> writes a merged model.",
    ),
    **absent(
        "mix_strategy interleave_probs",
        "A source of data takes a weight: data: [{path: ..., weight: 0.3}].",
        ("concat",),
    ),
    **absent("max_samples", "All rows are trained; cut the file, or lower trainer.num_train_steps."),
    **absent(
        "default_system tool_format preserve_thinking",
        "Rows are written by the chat template; write the system turn into the rows.",
        (True,),
    ),
    **absent("additional_target", "Only adapters are trained, none of the model's own layers."),
    **absent("use_dora", "There is no DoRA here, only LoRA."),
    **absent("pissa_init pissa_convert pissa_iter", "Adapters start with a factor of zero: see lora.init.", (16,)),
    **absent("loraplus_lr_ratio loraplus_lr_embedding", "There is one learning rate.", (1e-6,)),
    **absent(
        "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules oft_rank oft_block_size oft_target "
        "module_dropout use_llama_pro mixture_of_depths",
        "Only LoRA is here.",
    ),
    **absent(
        "pref_beta pref_ftx pref_loss kto_chosen_weight kto_rejected_weight simpo_gamma ref_model reward_model "
        "ppo_epochs dpo_label_smoothing",
        "There is supervised fine-tuning here, no learning from preferences.",
    ),
    **absent(
        "use_galore use_apollo use_badam use_adam_mini use_muon", "Optimizers are AdamW, Adam, Lion, SGD and Adafactor."
    ),
    **absent("rope_scaling shift_attn", "The model is what its config.json says."),
    **absent(
        "resize_vocab add_tokens add_special_tokens new_special_tokens_config", "An adapter has no rows for new tokens."
    ),
    **absent("disable_shuffling", "Rows are shuffled anew each epoch."),
    **absent("early_stopping_steps", "Write early_stopping: {patience: <evaluations>}."),
    **absent(
        "use_swanlab swanlab_project swanlab_run_name swanlab_workspace swanlab_mode swanlab_api_key",
        "Trackers are W&B, TensorBoard and Trackio.",
    ),
    **absent("predict_with_generate eval_num_beams eval_on_each_dataset", "What is evaluated is the loss."),
    **absent(
        "image_max_pixels video_max_pixels freeze_vision_tower freeze_multi_modal_projector",
        "Models are of text.",
        (True,),
    ),
    **absent("fp8 fp8_backend enable_torch_profiler moe_aux_loss_coef use_dft_loss", "There is no such thing here."),
}

DEFAULTS = {
    "overflow": "truncate",
    "gradient_checkpointing": "full",
    "lora.r": 8,
    "lora.alpha": 16.0,
    "optimizer.learning_rate": 5e-5,
    "optimizer.lr_schedule": "linear",
    "optimizer.warmup": 0,
    "trainer.seed": 42,
    "trainer.train_batch_size": 8,
    "trainer.per_device_parallelism": 8,
    "trainer.checkpointer.save_interval": 500,
}

LLAMA_FACTORY = Tool("LLaMA-Factory", KEYS, DEFAULTS)
