"""What several tools write alike, and what it is here: batches, precision, optimizers, schedules, names of models."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from lodos.coming_from.advice import Advice, Computed, Entry, Write
from lodos.config_secrets import shown

FEWER_BITS = "there is no base of 4 or 8 bits here; trainer.mp: p=f32,c=bfloat16 holds it in 16."
MESH = "all devices share the batch and the parameters; see trainer.fsdp_axis and trainer.model_axis_size."
FULL = "lodos train adapts with LoRA; examples/alpaca.py trains all parameters."
HALF = "p=f32,c=bfloat16"
_QUANTISED = re.compile(r"(bnb-4bit|[-_]([348]bit|int[48]|fp8|awq|gptq)\b)", re.IGNORECASE)
_OPTIMIZERS = ("adamw", "adam", "lion", "sgd", "adafactor")


def batch(micro: str, accumulation: str, *, default_micro: int) -> dict[str, Entry]:
    """The two keys that make a batch of microbatches: rows of a device at once, and how often before a step."""

    def numbers(given: Mapping[str, Any]) -> tuple[Any, Any]:
        return given.get(micro, default_micro), whole(given.get(accumulation))

    def of_rows(value: Any, given: Mapping[str, Any]) -> Advice:
        rows, times = numbers(given)
        if not isinstance(rows, int) or isinstance(rows, bool):
            return Advice(text="Write trainer.per_device_parallelism, the rows that a device computes at once.")
        settings = {"trainer.per_device_parallelism": rows, "trainer.train_batch_size": rows * times}
        remark = f"{rows * times} is {rows} x {times} ({accumulation}) for one device; multiply it by their number."
        return Advice(settings, remark)

    def of_times(value: Any, given: Mapping[str, Any]) -> Advice:
        rows, times = numbers(given)
        if micro not in given:
            return of_rows(value, given)
        if not isinstance(rows, int):
            return Advice(text="Leave it out: it is train_batch_size / per_device_parallelism.")
        return Advice(text=f"Leave it out: it is train_batch_size / per_device_parallelism, {rows * times} / {rows}.")

    ours = ("trainer.per_device_parallelism", "trainer.train_batch_size")
    return {
        micro: Computed(of_rows, ours, f"The batch is of all devices: rows x {accumulation} x devices."),
        accumulation: Computed(of_times, ours, "It is train_batch_size / per_device_parallelism / devices."),
    }


def whole(value: Any) -> int:
    """How often gradients are accumulated: once unless a number says otherwise."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


def model_name(value: Any) -> str:
    """A hub name or folder with weights that can be read."""
    if not isinstance(value, str):
        raise ValueError("Write model_name_or_path: a hub name, or a folder.")
    if _QUANTISED.search(value):
        raise ValueError(f"{value} holds quantised weights. Write model_name_or_path with the model they were made of.")
    return value


def precision(value: Any) -> str:
    """`bf16: true`, and names of dtypes."""
    word = str(value).lower().removeprefix("torch.")
    if word in ("true", "auto", "bf16", "bfloat16", "full", "bf16-mixed", "bf16-true"):
        return HALF
    if word in ("false", "none", "float32", "fp32", "float", "no"):
        return "p=f32,c=f32"
    raise ValueError(f"float16 would need its losses scaled. Write trainer.mp: {HALF}.")


def float16(value: Any, given: Mapping[str, Any]) -> Advice:
    """`fp16: true`."""
    if not value or str(value).lower() == "false":
        return Advice(text="Leave it out: computation is in float32 by default.")
    return Advice({"trainer.mp": HALF}, "float16 would need its losses scaled.")


def bits(value: Any, given: Mapping[str, Any]) -> Advice:
    """`load_in_4bit: true` and the like."""
    if not value:
        return Advice(text="Leave it out: the base is held in the dtype of trainer.mp.")
    return Advice({"trainer.mp": HALF}, "There is no base of 4 or 8 bits here; this holds it in 16.")


def optimizer_type(value: Any) -> str:
    """`adamw_torch`, `paged_adamw_8bit`, `lion_32bit`, `torch.optim.AdamW`."""
    words = re.split(r"[^a-z]+", str(value).lower())
    found = next((word for word in _OPTIMIZERS if word in words), None)
    if found is None:
        raise ValueError(f"{shown(value)} is not here. Write optimizer.type: one of {', '.join(_OPTIMIZERS)}.")
    return found


def schedule(value: Any) -> str:
    """Names of learning-rate schedules."""
    word = str(value).lower().rsplit(".", 1)[-1].removeprefix("get_").removesuffix("_schedule")
    known = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
    known |= {"cosine_with_min_lr": "cosine", "cosine_schedule_with_warmup": "cosine", "cosine_decay": "cosine"}
    known |= {"linear_schedule_with_warmup": "linear", "linear_with_warmup": "linear", "cosine_with_warmup": "cosine"}
    if word not in known:
        raise ValueError(f"{shown(value)} is not here. Write optimizer.lr_schedule: cosine, linear or constant.")
    return known[word]


def target_modules(value: Any) -> Any:
    """A list, one regex, names separated by commas, or a word for all linear layers."""
    if isinstance(value, str):
        if value in ("all", "all-linear", "all_linear"):
            return "all-linear"
        names = [name.strip() for name in value.split(",") if name.strip()]
        if "," in value or re.fullmatch(r"\w+", value):
            return names
        return value
    if not value:
        return "all-linear"
    return list(value)


def number(value: Any) -> float:
    """Also from text such as "2e-4", which is one in YAML 1.1."""
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{shown(value)} is no number. Write optimizer.learning_rate: 3e-4 or another.") from None


def text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("Write its name as text, or leave it out.")


def above_zero(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError("Leave it out: it asks for nothing.")


def count_of_steps(name: str) -> Callable[[Any], int]:
    """Steps that must not be a share of all."""

    def convert(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if not value:
            raise ValueError("Leave it out: it asks for nothing.")
        raise ValueError(f"{shown(value)} is a share of all steps. Write {name}: <steps>.")

    return convert


def clip(value: Any) -> float | None:
    return above_zero(value) if value else None


def negated(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Write mask_inputs: true to train on the answers only, or false.")
    return not value


def repository(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^/\s]+/[^/\s]+", value):
        return value
    raise ValueError("Write hf_upload: owner/name, a repository of your own.")


def folder_name(value: Any) -> str:
    if isinstance(value, str) and value and "/" not in value and not value.startswith("."):
        return value
    raise ValueError("Write trainer.id: a plain folder name. By default one is made of the time.")


def held_out(value: Any, given: Mapping[str, Any]) -> Advice:
    """A share below 1, or a count of rows."""
    if not value:
        return Advice(text="Leave it out: no rows are held out by default.")
    number = int(value) if isinstance(value, float) and value >= 1 and value.is_integer() else value
    return Advice({"validation": number})


def trackers(value: Any, given: Mapping[str, Any]) -> Advice:
    """`report_to: wandb`, and lists of these."""
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) for word in words):
        return Advice(text="Write trainer.tracker: {type: wandb}, tensorboard or trackio, or a list of these.")
    names = [name for word in words for name in re.split(r"[\s,]+", word)]
    kinds = [name for name in names if name in ("wandb", "tensorboard", "trackio")]
    others = [name for name in names if name and name not in (*kinds, "none", "None", "all")]
    remark = f"{', '.join(others)}: not here." if others else ""
    if not kinds:
        return Advice(text=remark or "Leave it out: numbers go into log.jsonl; trainer.tracker names what else.")
    if kinds == ["wandb"] or ("wandb" in kinds and any(name.startswith("wandb_") for name in given)):
        rest: list[Any] = [{"type": kind} for kind in kinds if kind != "wandb"]
        return Advice({"trainer.wandb": {}} | ({"trainer.tracker": rest} if rest else {}), remark)
    return Advice({"trainer.tracker": [{"type": kind} for kind in kinds]}, remark)


TRACKERS = Computed(trackers, ("trainer.tracker",), "wandb, tensorboard or trackio; log.jsonl is always written.")
VALIDATION = Computed(held_out, ("validation",), "A share below 1, or a count of rows; 0 can be left out.")
FLOAT16 = Computed(float16, ("trainer.mp",), f"float16 would need its losses scaled: {HALF}.")
BITS = Computed(bits, ("trainer.mp",), FEWER_BITS[0].upper() + FEWER_BITS[1:])
LEARNING_RATE = Write("optimizer.learning_rate", number)
SEED = Write("trainer.seed", remark="It decides data order, the adapter's start and dropout.")
MODEL = Write("model_name_or_path", model_name)


def lengthwise(remark: str) -> Computed:
    """The longest row in tokens, where longer ones are cut."""

    def rule(value: Any, given: Mapping[str, Any]) -> Advice:
        if not isinstance(value, int):
            return Advice(text="Write max_tune_length: the longest row in tokens; here there is always one.")
        return Advice({"max_tune_length": value, "overflow": "truncate"}, remark)

    return Computed(rule, ("max_tune_length", "overflow"), remark)


CUT = lengthwise("Longer rows are cut, as there; by default they are left out and counted.")
