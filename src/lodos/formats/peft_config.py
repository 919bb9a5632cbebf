"""PEFT's adapter_config.json, both ways.

Written complete, with the defaults PEFT itself writes, so that nothing depends on how a reader fills gaps
(`target_modules: null`, for one, makes PEFT fall back to q_proj and v_proj). Read strictly: a field that would
change what the adapter computes and is not implemented here is refused by name, never ignored.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lodos.config_secrets import shown
from lodos.errors import UserError
from lodos.formats.foreign_patterns import pattern_problems
from lodos.json_files import FLAG, NAME, NAMES, NUMBER, OBJECT, TEXT, Kind, field_problems, refuse_fields, whole
from lodos.lora.config import LoraConfig

PEFT_VERSION = "0.21.2"
"""The version of PEFT whose adapter_config.json is written, field for field."""

_INIT_TO_PEFT = {"default": True, "gaussian": "gaussian", "zero_a": True}

# Ways to start that leave the base weights as they are; PiSSA, OLoRA, LoftQ and CorDA change them.
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")

# Read below, or by whoever compares the tensors.
_READ = frozenset(
    {
        "alpha_pattern",
        "bias",
        "init_lora_weights",
        "lora_alpha",
        "lora_dropout",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    }
)

# Fields that say nothing about what the adapter computes once its tensors are known: these say which layers it adapts.
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
_BIAS_NONE = (None, "none", False)

_KINDS: Mapping[str, Kind] = {
    "alpha_pattern": OBJECT,
    "base_model_name_or_path": NAME,
    "bias": TEXT | FLAG,
    "exclude_modules": TEXT | NAMES,
    "init_lora_weights": TEXT | FLAG,
    "lora_alpha": NUMBER,
    "lora_dropout": NUMBER,
    "modules_to_save": NAMES,
    "peft_type": TEXT,
    "r": whole(-(2**16), 2**16),
    "rank_pattern": OBJECT,
    "revision": NAME,
    "target_modules": TEXT | NAMES,
    "use_rslora": FLAG,
}


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """What an adapter folder says of itself."""

    lora: LoraConfig
    base_model_name_or_path: str | None
    revision: str | None
    """Of the base model."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained besides, whole: what they became is in the adapter's file."""


def to_peft(config: LoraConfig, target_modules: Sequence[str] | str, base_model_name_or_path: str) -> dict[str, Any]:
    """The content of adapter_config.json.

    Args:
        target_modules: the modules that were adapted in fact, as names or endings or a regex, whatever the config
            asked for.
    """
    return {
        "alora_invocation_tokens": None,
        "alpha_pattern": {name: _number(value) for name, value in config.alpha_pattern.items()},
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": base_model_name_or_path,
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": _INIT_TO_PEFT[config.init],
        "kasa_config": None,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": _number(config.alpha),
        "lora_bias": False,
        "lora_dropout": config.dropout,
        "lora_ga_config": None,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "monteclora_config": None,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "qalora_group_size": 16,
        "r": config.r,
        "rank_pattern": dict(config.rank_pattern),
        "revision": None,
        "target_modules": target_modules if isinstance(target_modules, str) else list(target_modules),
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_bdlora": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": config.use_rslora,
        "velora_config": None,
    }


def from_peft(fields: Mapping[str, Any], source: object) -> AdapterConfig:
    """The adapter that adapter_config.json describes.

    Args:
        source: the file, for the error.

    Raises:
        UserError: that lists every field that is not implemented, missing or out of range.
    """
    if "lora_parameters" in fields or "fine_tune_type" in fields:
        raise UserError(
            f"{source}: an adapter of MLX (mlx-lm), whose files are not PEFT's. Let `mlx_lm.fuse` (with "
            "--dequantize if the base is quantised) write it and its base as one model, and give that with --model."
        )
    refuse_fields(source, field_problems(fields, _KINDS))
    problems = []
    if fields.get("peft_type") != "LORA":
        problems.append(f"peft_type: {fields.get('peft_type')!r} is not LORA.")
    if fields.get("bias") not in _BIAS_NONE:
        problems.append(f"bias: {fields['bias']!r} is not implemented; only 'none' is.")
    init = fields.get("init_lora_weights", True)
    if init not in _HARMLESS_INITS:
        problems.append(f"init_lora_weights: {init!r} changes the base weights and is not implemented.")
    # Null targets are taken: which layers are adapted is known from the tensors.
    problems += [f"{name}: missing." for name in ("r", "lora_alpha") if fields.get(name) is None]
    patterns = {name: fields.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    modules_to_save = fields.get("modules_to_save") or []
    for name, pattern in patterns.items():
        problems += pattern_problems(name, pattern)
    problems += [
        f"{name}: {shown(value)} is not implemented."
        for name, value in fields.items()
        if value and name not in _WITHOUT_EFFECT | _READ
    ]
    if problems:
        raise UserError(f"{source}:\n  " + "\n  ".join(problems))
    try:
        lora = LoraConfig(
            target_modules=fields.get("target_modules") or None,
            r=fields["r"],
            alpha=float(fields["lora_alpha"]),
            dropout=float(fields.get("lora_dropout") or 0.0),
            exclude_modules=fields.get("exclude_modules"),
            use_rslora=bool(fields.get("use_rslora", False)),
            init="gaussian" if init == "gaussian" else "default",
            rank_pattern=dict(patterns["rank_pattern"]),
            alpha_pattern=dict(patterns["alpha_pattern"]),
        )
    except (UserError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{source}: {error}") from None
    base, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    return AdapterConfig(lora, base, revision, tuple(modules_to_save))


def _number(value: float) -> float:
    """A whole number as PEFT writes it, without a point."""
    return int(value) if float(value).is_integer() else value
