"""Axolotl's YAML."""

from collections.abc import Mapping
from typing import Any

from lodos.coming_from.advice import IDLE, Advice, Computed, Entry, Tool, Write, absent, leave_out
from lodos.coming_from.training_arguments import KEYS as TRAINING_ARGUMENTS
from lodos.coming_from.training_arguments import TENSORBOARD
from lodos.coming_from.trl import INIT
from lodos.coming_from.values import (
    BITS,
    FLOAT16,
    FULL,
    HALF,
    MODEL,
    VALIDATION,
    batch,
    negated,
    optimizer_type,
    precision,
    schedule,
    target_modules,
    text,
)
from lodos.config_secrets import shown

_FORMATS = {"alpaca": "alpaca", "completion": "text", "chat_template": "chat", "sharegpt": "chat", "input_output": None}


def _source(entry: Any) -> Any:
    """One of `datasets` as a source of ours."""
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise ValueError("Write data: a file, folder or hub name, or a mapping with one as path.")
    path = entry["path"]
    if path in ("json", "csv", "parquet") and entry.get("data_files"):
        path = entry["data_files"]
        return path[0] if isinstance(path, list) and len(path) == 1 else path
    more = {key: entry[key] for key in ("name", "split", "revision") if entry.get(key)}
    if more.get("split") == "train":
        more.pop("split")
    return {"path": path, **more} if more else path


def _sources(value: Any) -> Any:
    found = [_source(entry) for entry in (value if isinstance(value, list) else [value])]
    flat = [item for source in found for item in (source if isinstance(source, list) else [source])]
    return flat[0] if len(flat) == 1 else flat


def _datasets(value: Any, given: Mapping[str, Any]) -> Advice:
    try:
        settings: dict[str, Any] = {"data": _sources(value)}
    except ValueError as error:
        return Advice(text=str(error))
    entries = [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, Mapping)]
    remarks = []
    columns: dict[str, str] = {}
    for entry in entries:
        kind = str(entry.get("type") or "alpaca")
        if kind.split(":")[0].split(".")[0] not in _FORMATS:
            remarks.append(f"type {shown(entry.get('type'))}: see format, columns and prompts.")
        if entry.get("field_messages", "messages") not in ("messages", "conversations", "conversation"):
            columns["messages"] = entry["field_messages"]
        if kind == "completion" and entry.get("field", "text") != "text":
            columns["text"] = entry["field"]
        if entry.get("message_property_mappings"):
            remarks.append("message_property_mappings: role and content, from and value are found.")
        unread = [
            key for key in ("roles_to_train", "train_on_eos", "train_on_eot", "shards", "roles") if entry.get(key)
        ]
        if unread:
            remarks.append(f"{', '.join(unread)}: not here; every answer and the end of its turn are trained.")
    if columns:
        settings["columns"] = columns
    return Advice(settings, " ".join(dict.fromkeys(["What rows are goes by their columns.", *remarks])))


def _test_datasets(value: Any, given: Mapping[str, Any]) -> Advice:
    try:
        return Advice({"validation": _sources(value)})
    except ValueError:
        return Advice(text="Write validation: a file, folder or hub name, or split:<name> of data.")


def _adapter(value: Any, given: Mapping[str, Any]) -> Advice:
    if value == "lora":
        return Advice(text="Leave it out: lodos train adapts with LoRA.")
    if value == "qlora":
        return Advice({"trainer.mp": HALF}, "QLoRA's base of 4 bits is not here; this is LoRA on one of 16.")
    return Advice(text="Only LoRA is here." if value else FULL)


def _all_linear(value: Any, given: Mapping[str, Any]) -> Advice:
    if value and not given.get("lora_target_modules"):
        return Advice({"lora.target_modules": "all-linear"})
    return Advice(text="Leave it out: lora.target_modules says which layers; by default every linear one.")


def _template(value: Any) -> str:
    if isinstance(value, str) and ("{" in value or value.endswith((".jinja", ".j2"))):
        return value
    raise ValueError("Leave it out: it is the tokenizer's own. chat_template: <a Jinja file> gives another.")


def _overflow(value: Any) -> str:
    words = {"drop": "drop", "truncate": "truncate", "raise": "error"}
    if value not in words:
        raise ValueError("Write overflow: drop, truncate or error.")
    return words[value]


def _per_epoch(instead: str) -> Computed:
    def rule(value: Any, given: Mapping[str, Any]) -> Advice:
        if not value:
            return IDLE
        return Advice(text=f"Write {instead}: <steps of an epoch / {value}>; lodos data says how many an epoch takes.")

    return Computed(rule, (), f"In steps: {instead}.")


def _mode(value: Any) -> str:
    if value in ("online", "offline", "disabled"):
        return value
    raise ValueError("Write trainer.wandb.mode: online, offline or disabled.")


def _wandb(name: str) -> Write:
    return Write(f"trainer.wandb.{name}", text)


KEYS: dict[str, Entry] = {
    **TRAINING_ARGUMENTS,
    **batch("micro_batch_size", "gradient_accumulation_steps", default_micro=1),
    "base_model": MODEL,
    "adapter": Computed(_adapter, (), "lora can be left out; QLoRA's base of 4 bits is not here."),
    "load_in_8bit": BITS,
    "load_in_4bit": BITS,
    "lora_r": Write("lora.r"),
    "lora_alpha": Write("lora.alpha"),
    "lora_dropout": Write("lora.dropout"),
    "lora_target_modules": Write("lora.target_modules", target_modules),
    "lora_target_linear": Computed(_all_linear, ("lora.target_modules",), "all-linear, which is the default."),
    "lora_rank_pattern": Write("lora.rank_pattern"),
    "lora_alpha_pattern": Write("lora.alpha_pattern"),
    "peft_use_rslora": Write("lora.use_rslora"),
    "peft_init_lora_weights": INIT,
    "datasets": Computed(
        _datasets, ("data", "columns"), "path, name, split, revision; what rows are goes by their columns."
    ),
    "test_datasets": Computed(_test_datasets, ("validation",)),
    "pretraining_dataset": Computed(_datasets, ("data", "columns"), "With streaming: true."),
    "val_set_size": VALIDATION,
    "dataset_prepared_path": Write("data_cache_dir"),
    "chat_template": Write("chat_template", _template, otherwise_meant=True),
    "chat_template_jinja": Write("chat_template", _template),
    "sequence_len": Write("max_tune_length", remark="Longer rows are left out and counted, as there."),
    "excess_length_strategy": Write("overflow", _overflow),
    "sample_packing": Write("packing", bool),
    "train_on_inputs": Write("mask_inputs", negated),
    "batch_size": Write("trainer.train_batch_size"),
    "eval_batch_size": Write("trainer.per_device_eval_parallelism"),
    "num_epochs": TRAINING_ARGUMENTS["num_train_epochs"],
    "optimizer": Write("optimizer.type", optimizer_type, "Only the adapter has an optimizer state, in 32 bits."),
    "lr_scheduler": Write("optimizer.lr_schedule", schedule),
    "cosine_min_lr_ratio": Write("optimizer.min_lr_ratio"),
    "bfloat16": Write("trainer.mp", precision),
    "float16": FLOAT16,
    "evals_per_epoch": _per_epoch("trainer.steps_per_eval"),
    "saves_per_epoch": _per_epoch("trainer.checkpointer.save_interval and hf_save_steps"),
    "wandb_project": _wandb("project"),
    "wandb_entity": _wandb("entity"),
    "wandb_name": _wandb("name"),
    "wandb_run_id": _wandb("id"),
    "wandb_mode": Write("trainer.wandb.mode", _mode),
    "use_tensorboard": TENSORBOARD,
    "trackio_project_name": TRAINING_ARGUMENTS["project"],
    **leave_out(
        "use_wandb wandb_watch wandb_log_model", "trainer.wandb: {project: ...} logs to W&B; adapters stay here."
    ),
    **leave_out("use_trackio trackio_run_name", "trainer.tracker: {type: trackio, project: ...} logs to Trackio."),
    **leave_out(
        "base_model_config tokenizer_config cls_model_config model_type tokenizer_type tokenizer_use_fast "
        "tokenizer_legacy type_of_model processor_type is_falcon_derived_model is_llama_derived_model "
        "is_mistral_derived_model is_qwen_derived_model",
        "model and tokenizer are what config.json and tokenizer.json say.",
    ),
    **leave_out(
        "pad_to_sequence_len eval_sample_packing sample_packing_group_size sample_packing_bin_size "
        "sample_packing_eff_est sample_packing_sequentially multipack_real_batches batch_flattening total_num_tokens",
        "packing: true fills rows of max_tune_length tokens, in training and evaluation.",
    ),
    **leave_out(
        "flash_attention sdp_attention xformers_attention flex_attention eager_attention sage_attention "
        "flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_mlp flash_attn_fuse_qkv attn_implementation "
        "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel",
        "the fastest attention that the device has is taken, and LoRA has a kernel of its own.",
    ),
    **leave_out("float32", "computation is in float32 unless trainer.mp says otherwise."),
    **leave_out(
        "shuffle_merged_datasets shuffle_before_merging_datasets dataset_processes dataset_num_proc "
        "dataset_keep_in_memory skip_prepare_dataset dataset_exact_deduplication",
        "rows are prepared on all cores and shuffled; lodos data names those that are double.",
    ),
    **leave_out(
        "strict lora_on_cpu qlora_sharded_model_loading low_cpu_mem_usage device_map device max_memory "
        "gpu_memory_limit world_size fsdp_version dp_shard_size dp_replicate_size deepcompile",
        "weights are read from the files, each device its share.",
    ),
    **leave_out("auto_resume_from_checkpoints", "the same trainer.id goes on where it stopped."),
    **leave_out("merge_lora merge_method", "save_merged: true, or lodos merge, gives a merged model."),
    **leave_out("hf_use_auth_token", "the hub's token is taken from HF_TOKEN, or from hf auth login."),
    **leave_out(
        "lora_fan_in_fan_out peft_autocast_adapter_dtype peft_ensure_weight_tying",
        "adapters are float32, in the layout of the model's files.",
    ),
    "tensor_parallel_size": Write("trainer.model_axis_size"),
    "lora_model_dir": Write("initialize_from"),
    **absent(
        "special_tokens tokens added_tokens_overrides",
        "An adapter has no rows for new tokens; filler is a token there is.",
    ),
    **absent("eot_tokens", "A turn ends as the chat template says, and its end is trained."),
    **absent("default_system_message", "Write the system turn into the rows, or a chat_template of your own."),
    **absent("min_sample_len max_prompt_len eval_sequence_len", "Rows are kept or left out by max_tune_length alone."),
    **absent("curriculum_sampling", "Rows are shuffled anew each epoch."),
    **absent("early_stopping_patience", "Write early_stopping: {patience: <evaluations>}."),
    **absent(
        "rl trl reward_model kto_desirable_weight orpo_alpha simpo_gamma rl_beta dpo_beta",
        "There is supervised fine-tuning here, no learning from preferences.",
    ),
    **absent("unfrozen_parameters lisa_n_layers", FULL),
    **absent("relora relora_prune_ratio jagged_restart_steps", "There are no restarts here."),
    **absent("lora_modules_to_save", "Only adapters are trained, none of the model's own layers."),
    **absent(
        "peft_layers_to_transform peft_layers_pattern",
        "A regex in lora.target_modules takes some layers: .*layers\\.[0-7]\\..*",
    ),
    **absent("peft_use_dora", "There is no DoRA here, only LoRA."),
    **absent(
        "loraplus_lr_ratio loraplus_lr_embedding embedding_lr embedding_lr_scale lr_groups",
        "There is one learning rate.",
        (1e-6,),
    ),
    **absent(
        "peft lora_target_parameters peft_layer_replication peft_trainable_token_indices",
        "LoRA is for linear layers here, with the starts of lora.init.",
    ),
    **absent("gptq bnb_config_kwargs model_quantization_config qat quantization", "There are no quantised bases here."),
    **absent(
        "overrides_of_model_config overrides_of_model_kwargs rope_scaling", "The model is what its config.json says."
    ),
    **absent("revision_of_model", "Write the folder of that revision: hf download <name> --revision <revision>."),
    **absent("resize_token_embeddings_to_32x", "The vocabulary stays as it is."),
    **absent(
        "plugins liger_rope liger_rms_norm liger_glu_activation liger_fused_linear_cross_entropy cut_cross_entropy "
        "unsloth_lora_mlp unsloth_lora_qkv unsloth_lora_o",
        "Leave it out: there are no plugins; attention, LoRA and loss have kernels of their own.",
    ),
    **absent("noisy_embedding_alpha", "There is no NEFTune noise here."),
    **absent(
        "s2_attention sequence_parallel_degree context_parallel_size ring_attn_func",
        "A row is computed by the devices of one model axis.",
    ),
    **absent(
        "optim_args torchdistx_path lr_quadratic_warmup cosine_constant_lr_ratio lr_div_factor",
        "Optimizers and schedules have the settings under optimizer.",
    ),
    **absent(
        "do_bench_eval do_causal_lm_eval eval_table_size eval_max_new_tokens generate_samples",
        "What is evaluated is the loss; lodos generate asks the adapter.",
    ),
    **absent(
        "use_mlflow mlflow_tracking_uri mlflow_experiment_name mlflow_run_name hf_mlflow_log_artifacts use_comet "
        "comet_workspace comet_project_name comet_experiment_key comet_mode comet_api_key",
        "Trackers are W&B, TensorBoard and Trackio.",
    ),
    **absent("loss_watchdog_threshold loss_watchdog_patience", "Training stops at a loss that is not finite."),
    **absent("activation_offloading layer_offloading", "gradient_checkpointing: full keeps the least memory."),
    **absent(
        "gc_steps gc_collect_steps profiler_steps profiler_steps_start use_ray ray_num_workers ray_run_name "
        "resources_per_worker fp8 fp8_config push_dataset_to_hub use_pose scaling_softmax use_eaft fp32_norms "
        "quantize_moe_experts tiled_mlp selective_checkpointing freeze_mm_modules image_size num_labels reinit_weights "
        "process_reward_model vllm ebft dynamic_checkpoint gradio_title gradio_share gradio_server_port "
        "use_otel_metrics",
        "There is no such thing here.",
    ),
    **absent("dataset_shard_num dataset_shard_idx pretrain_multipack_attn", "All rows of data are trained."),
    **absent(
        "adam_epsilon2 adam_beta3 dion_lr dion_momentum qgalore_rank qgalore_scale qgalore_update_proj_gap",
        "Optimizers are AdamW, Adam, Lion, SGD and Adafactor.",
        (1.0,),
    ),
    **leave_out(
        "pad_to_multiple_of sample_packing_mp_start_method chunked_cross_entropy torch_compile_options use_kernels "
        "chunked_cross_entropy_num_chunks fsdp_final_state_dict_type save_first_step include_tkps ddp "
        "tokenizer_use_mistral_common tokenizer_save_jinja_files axolotl_config_path is_preprocess",
        "it changes nothing here.",
    ),
    "streaming_multipack_buffer_size": Write("shuffle_buffer"),
    "max_packed_sequence_len": Write("seq_len"),
}

DEFAULTS = {
    "max_tune_length": 512,
    "gradient_checkpointing": "none",
    "trainer.num_epochs": 1.0,
    "trainer.seed": 42,
    "trainer.train_batch_size": 1,
    "trainer.per_device_parallelism": 1,
}

AXOLOTL = Tool("Axolotl", KEYS, DEFAULTS)
