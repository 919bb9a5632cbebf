"""MLX adapters, both ways: the two files that mlx-lm trains and loads.

    adapters.safetensors   model.layers.0.self_attn.q_proj.lora_a   [in, r], of the embedding [vocab, r]
                           model.layers.0.self_attn.q_proj.lora_b   [r, out]
    adapter_config.json    fine_tune_type, num_layers, lora_parameters: {keys, rank, scale, dropout}

`y = W x + scale * (x lora_a) lora_b`: PEFT's matrices transposed, its alpha / r as a scale. mlx-lm has one rank and one
scale for all modules (`load_adapters` in its `tuner/utils.py` refuses other shapes). Where ranks differ, factors are
filled up with zeros; where scales differ, the rest is multiplied into lora_b.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lodos.errors import UserError
from lodos.files import write_json
from lodos.formats.factors import Factors
from lodos.formats.safetensors import SafetensorsReader
from lodos.formats.safetensors_writer import save_and_compare
from lodos.formats.text_part import LANGUAGE_MODEL
from lodos.json_files import NUMBER, OBJECT, TEXT, field_problems, read_object, refuse_fields, whole
from lodos.lora.config import LoraConfig

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapters.safetensors"

_LAYER = re.compile(r"^model\.layers\.\d+\.")
_KINDS = {"fine_tune_type": TEXT, "lora_parameters": OBJECT, "model": TEXT}
_PARAMETERS = {"rank": whole(1, 2**16), "scale": NUMBER, "dropout": NUMBER}


def is_mlx_adapter(folder: Path) -> bool:
    """Whether a folder holds what mlx-lm leaves."""
    return (folder / WEIGHTS_NAME).is_file()


def save_mlx(
    factors: Mapping[str, Factors], config: LoraConfig, folder: Path, *, model: str, num_layers: int
) -> list[str]:
    """Writes an adapter to `folder`.

    Args:
        model: the base model's name.
        num_layers: how many decoder layers the base has.

    Returns:
        What is not exact in the files, a sentence each.

    Raises:
        OSError: if what is read back is not what was written.
        UserError: for an adapter of a model of more than text.
    """
    if text := next((module for module in factors if module.startswith(LANGUAGE_MODEL)), None):
        raise UserError(
            f"{text}: mlx-lm has other names for the text of such models, and an adapter for it is not written here. "
            "Merge it (lodos merge) and give the folder to mlx_lm.convert."
        )
    rank = max(found.rank for found in factors.values())
    scales = {module: found.scale for module, found in factors.items()}
    scale = max(scales.values(), key=list(scales.values()).count)
    tensors = {}
    for module, found in factors.items():
        fill = rank - found.rank
        B = found.B if found.scale == scale else found.B * np.float32(found.scale / scale)
        tensors[f"{module}.lora_a"] = np.ascontiguousarray(np.pad(found.A, ((0, fill), (0, 0))).T)
        tensors[f"{module}.lora_b"] = np.ascontiguousarray(np.pad(B, ((0, 0), (0, fill))).T)
    save_and_compare(folder / WEIGHTS_NAME, tensors)
    fields = {
        "fine_tune_type": "lora",
        "lora_parameters": {
            "dropout": config.dropout,
            "keys": sorted({_LAYER.sub("", module) for module in factors}),
            "rank": rank,
            "scale": scale,
        },
        "model": model,
        "num_layers": num_layers,
    }
    write_json(folder / CONFIG_NAME, fields)
    others = sorted(module for module, found in scales.items() if found != scale)
    if not others:
        return []
    return [
        f"mlx-lm has one scale for all modules; of {len(others)} others, such as {others[0]}, the rest is in lora_b."
    ]


def read_mlx(folder: Path) -> tuple[dict[str, Factors], str | None, float]:
    """The factors of an MLX adapter by the names of its modules, the base model it names, and its dropout.

    Raises:
        UserError: for fields and tensors that are missing, of another kind, or not LoRA's; all of them at once.
    """
    file = folder / CONFIG_NAME
    fields = read_object(file)
    refuse_fields(file, field_problems(fields, _KINDS))
    parameters: Mapping[str, Any] = fields.get("lora_parameters") or {}
    refuse_fields(file, [f"lora_parameters.{line}" for line in field_problems(parameters, _PARAMETERS)])
    if (kind := fields.get("fine_tune_type", "lora")) != "lora":
        raise UserError(f"{file}: fine_tune_type: {kind!r} is not LoRA, which alone is read.")
    if parameters.get("scale") is None:
        raise UserError(f"{file}: lora_parameters.scale: missing, so how strong the adapter is cannot be told.")
    reader = SafetensorsReader(folder / WEIGHTS_NAME)
    pairs: dict[str, dict[str, np.ndarray]] = {}
    problems = []
    for name in reader.shapes:
        module, _, suffix = name.rpartition(".")
        if suffix not in ("lora_a", "lora_b") or len(reader.shapes[name]) != 2:
            problems.append(f"{name}: no factor of a linear layer.")
            continue
        pairs.setdefault(module, {})[suffix] = reader.read(name).astype(np.float32)
    problems += [f"{name}: {next(iter(pair))} alone." for name, pair in pairs.items() if len(pair) < 2]
    if problems or not pairs:
        raise UserError(f"{folder / WEIGHTS_NAME}:\n  " + "\n  ".join(problems or ["no LoRA factors."]))
    scale = float(parameters["scale"])
    factors = {
        module: Factors(np.ascontiguousarray(pair["lora_a"].T), np.ascontiguousarray(pair["lora_b"].T), scale)
        for module, pair in pairs.items()
    }
    return factors, fields.get("model"), float(parameters.get("dropout") or 0.0)
