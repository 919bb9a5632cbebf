"""mlx-lm's YAML for `mlx_lm.lora`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lodos.coming_from.advice import IDLE, Absent, Advice, Computed, Entry, LeaveOut, Tool, Write, absent, leave_out
from lodos.coming_from.training_arguments import CHECKPOINTING
from lodos.coming_from.values import (
    CUT,
    FULL,
    LEARNING_RATE,
    MODEL,
    SEED,
    TRACKERS,
    batch,
    count_of_steps,
    optimizer_type,
    schedule,
    text,
    whole,
)

_RANK, _SCALE, _ITERATIONS = 8, 20.0, "grad_accumulation_steps"


def _iterations(value: Any, given: Mapping[str, Any]) -> Advice:
    times = whole(given.get(_ITERATIONS))
    if not isinstance(value, int):
        return Advice(text="Write trainer.num_train_steps: <optimizer steps>.")
    if times == 1:
        return Advice({"trainer.num_train_steps": value})
    steps = max(value // times, 1)
    return Advice({"trainer.num_train_steps": steps}, f"A step is an update: {value} / {times} ({_ITERATIONS}).")


def _every(to: str) -> Computed:
    def rule(value: Any, given: Mapping[str, Any]) -> Advice:
        times = whole(given.get(_ITERATIONS))
        try:
            return Advice({to: max(count_of_steps(to)(value) // times, 1)})
        except (ValueError, TypeError) as error:
            return Advice(text=str(error))

    return Computed(rule, (to,), f"In steps, not in iterations: divided by {_ITERATIONS}.")


def _rank(value: Any, given: Mapping[str, Any]) -> Advice:
    return Advice({"lora.r": value, "lora.alpha": _alpha(given)}, f"alpha is scale x rank, {_numbers(given)}.")


def _scale(value: Any, given: Mapping[str, Any]) -> Advice:
    if "lora_parameters.rank" in given:
        return Advice(text=f"Leave it out: it is in lora.alpha, {_numbers(given)}.")
    return Advice({"lora.alpha": _alpha(given)}, f"alpha is scale x rank, {_numbers(given)}.")


def _alpha(given: Mapping[str, Any]) -> Any:
    rank, scale = given.get("lora_parameters.rank", _RANK), given.get("lora_parameters.scale", _SCALE)
    try:
        return float(rank) * float(scale)
    except (TypeError, ValueError):
        return None


def _numbers(given: Mapping[str, Any]) -> str:
    return f"{given.get('lora_parameters.scale', _SCALE)} x {given.get('lora_parameters.rank', _RANK)}"


def _layers(value: Any, given: Mapping[str, Any]) -> Advice:
    if value == -1:
        return Advice(text="Leave it out: all layers are adapted.")
    return Advice(
        text=f"The last {value} layers alone take a regex: lora.target_modules: .*layers\\.(<numbers>)\\..*_proj. Left "
        "out, all are adapted."
    )


def _schedule(value: Any, given: Mapping[str, Any]) -> Advice:
    if not isinstance(value, Mapping):
        return Advice(text="Leave it out.")
    try:
        settings: dict[str, Any] = {"optimizer.lr_schedule": schedule(value.get("name"))}
    except ValueError as error:
        return Advice(text=str(error))
    arguments = value.get("arguments")
    if isinstance(arguments, list) and arguments and all(isinstance(item, int | float) for item in arguments):
        settings["optimizer.learning_rate"] = arguments[0]
        if len(arguments) > 2 and arguments[0]:
            settings["optimizer.min_lr_ratio"] = round(arguments[2] / arguments[0], 6)
    settings["optimizer.warmup"] = value.get("warmup", 0)
    return Advice(settings, "The decay ends with the last step.")


def _folder(value: Any, given: Mapping[str, Any]) -> Advice:
    """A folder with train.jsonl and, it may be, valid.jsonl; or a hub name. A file is taken as meant."""
    if not isinstance(value, str) or not value:
        return Advice(text="Write data: a file, folder or hub name.")
    folder = Path(value)
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", value):
        return Advice({"data": value})
    if folder.is_file():
        return Advice({"data": value}, "mlx-lm reads train.jsonl and valid.jsonl of a folder.")
    settings = {"data": str(folder / "train.jsonl")}
    if not folder.exists() or (folder / "valid.jsonl").exists():
        settings["validation"] = str(folder / "valid.jsonl")
    return Advice(settings, "test.jsonl is not read.")


def _kind(value: Any, given: Mapping[str, Any]) -> Advice:
    if value == "lora":
        return Advice(text="Leave it out: lodos train adapts with LoRA.")
    return Advice(text=FULL if value == "full" else "There is no DoRA here, only LoRA.")


def _optimizer_settings(value: Any, given: Mapping[str, Any]) -> Advice:
    chosen = str(given.get("optimizer", "adam")).lower()
    settings = value.get(chosen) if isinstance(value, Mapping) else None
    if not isinstance(settings, Mapping) or not settings:
        return IDLE
    found: dict[str, Any] = {}
    for name, setting in settings.items():
        if name == "betas" and isinstance(setting, list) and len(setting) == 2:
            found |= {"optimizer.beta1": setting[0], "optimizer.beta2": setting[1]}
        elif name in ("weight_decay", "eps"):
            found["optimizer.epsilon" if name == "eps" else "optimizer.weight_decay"] = setting
    return Advice(found, "" if found else "Write beta1, beta2, epsilon and weight_decay under optimizer.")


KEYS: dict[str, Entry] = {
    **leave_out("trust_remote_code", "code of a model's repository is never run."),
    **batch("batch_size", _ITERATIONS, default_micro=4),
    "model": MODEL,
    "data": Computed(
        _folder,
        ("data", "validation"),
        "<folder>/train.jsonl, with validation: <folder>/valid.jsonl.",
        otherwise_meant=True,
    ),
    "iters": Computed(_iterations, ("trainer.num_train_steps",), f"Divided by {_ITERATIONS}: a step is an update."),
    "learning_rate": LEARNING_RATE,
    "optimizer": Write("optimizer.type", optimizer_type),
    "optimizer_config": Computed(
        _optimizer_settings,
        ("optimizer.weight_decay", "optimizer.beta1", "optimizer.beta2", "optimizer.epsilon"),
        "Those of the optimizer that is used.",
    ),
    "lr_schedule": Computed(
        _schedule,
        ("optimizer.lr_schedule", "optimizer.learning_rate", "optimizer.warmup", "optimizer.min_lr_ratio"),
        "By name, arguments and warmup; the decay ends with the last step.",
    ),
    "lora_parameters.rank": Computed(_rank, ("lora.r", "lora.alpha"), "alpha is scale x rank."),
    "lora_parameters.scale": Computed(_scale, ("lora.alpha",), "alpha is scale x rank."),
    "lora_parameters.alpha": Write("lora.alpha", remark="Newer versions give scale, which is alpha / rank."),
    "lora_parameters.dropout": Write("lora.dropout"),
    "lora_parameters.keys": Write("lora.target_modules"),
    "num_layers": Computed(_layers, (), "-1 can be left out; some layers take a regex in lora.target_modules."),
    "lora_layers": Computed(_layers, (), "-1 can be left out; some layers take a regex in lora.target_modules."),
    "fine_tune_type": Computed(_kind, (), "lora can be left out."),
    "mask_prompt": Write("mask_inputs"),
    "max_seq_length": CUT,
    "steps_per_eval": _every("trainer.steps_per_eval"),
    "save_every": _every("hf_save_steps"),
    "adapter_path": Write("hf_save_path", str, "Adapters are in <hf_save_path>/<id>/step-<k>."),
    "grad_checkpoint": CHECKPOINTING,
    "report_to": TRACKERS,
    "wandb": Write("trainer.wandb", lambda value: {"project": text(value)}),
    "project_name": Write("trainer.wandb.project", text),
    "seed": SEED,
    "val_batches": LeaveOut("all held-out rows are evaluated; validation: <rows> says how many there are."),
    "resume_adapter_file": Absent("Merge that adapter, and give the result as model_name_or_path."),
    **leave_out("train test test_batches", "lodos train trains, and evaluates where validation is given."),
    **leave_out("steps_per_report", "the numbers of every step are in log.jsonl."),
    **leave_out("config clear_cache_threshold", "it changes nothing here."),
    **absent(
        "hf_dataset prompt_feature chat_feature completion_feature text_feature",
        "Write data: <hub name>, and columns where they have other names.",
    ),
}

DEFAULTS = {
    "mask_inputs": False,
    "overflow": "truncate",
    "gradient_checkpointing": "none",
    "lora.r": _RANK,
    "lora.alpha": _RANK * _SCALE,
    "optimizer.type": "adam",
    "optimizer.learning_rate": 1e-5,
    "optimizer.lr_schedule": "constant",
    "optimizer.warmup": 0,
    "optimizer.max_grad_norm": None,
    "trainer.num_train_steps": 1000,
    "trainer.train_batch_size": 4,
    "trainer.per_device_parallelism": 4,
    "trainer.steps_per_eval": 200,
    "hf_save_steps": 100,
}

MLX_LM = Tool("mlx-lm", KEYS, DEFAULTS)
