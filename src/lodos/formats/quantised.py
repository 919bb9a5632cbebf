"""Quantised weights, told by the tensors and not by config.json: a `quantization_config` may be left over from before.

Each method stores integers or 8-bit floats, and scales beside them under names of its own. Float weights are float
weights, whatever config.json still says of them.
"""

import re
from collections.abc import Mapping
from typing import Any

from lodos.errors import UserError
from lodos.places.place import Place

_NAMES = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 of FBGEMM",
    "mxfp4": "MXFP4",
    "compressed-tensors": "compressed-tensors",
    "modelopt": "NVIDIA ModelOpt",
}
_MARKS = (
    (r"\.(SCB|weight_format|absmax|quant_map|nested_\w+|quant_state\.bitsandbytes__\w+)$", "bitsandbytes"),
    (r"\.weight_(packed|shape|zero_point)$", "compressed-tensors"),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"_(blocks|scales)$", "MXFP4"),
)
"""What the names of tensors tell where config.json does not."""
_EIGHT_BIT_FLOATS = re.compile(r"F8_E[45]M[23]")


def refuse_quantised(
    folder: Place, others: Mapping[str, str], names: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """
    Args:
        others: the tensors that are not floats of 16 bits or more, by name, and their types in safetensors' words.
        names: all that are.
        config: config.json.

    Raises:
        UserError: in one sentence, if the weights are quantised.
    """
    if not others:
        return
    method = _method(others, names, config)
    if method is None:
        return
    first = min(others, key=lambda name: ("weight" not in name, name))
    raise UserError(
        f"{folder}: the weights are quantised by {method}: {first} is {others[first]}, and so are {len(others) - 1} "
        "others. Adapters are trained beside float weights here: give the model that was quantised, or dequantise it "
        "where it was made and save it as safetensors."
    )


def left_over(config: Mapping[str, Any]) -> str | None:
    """The method that a config.json names; of use where the weights are floats."""
    settings = config.get("quantization_config") or config.get("quantization")
    if not settings:
        return None
    return _named(settings) or "a method that it does not name"


def _method(others: Mapping[str, str], names: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    settings = config.get("quantization_config") or {}
    if named := _named(settings):
        return named
    every = [*others, *names]
    # MLX packs into 32 bits without a sign, with scales and perhaps biases beside the weight.
    if any(kind == "U32" and f"{name.removesuffix('.weight')}.scales" in every for name, kind in others.items()):
        return _with_bits("MLX", config.get("quantization") or settings)
    for pattern, method in _MARKS:
        if any(re.search(pattern, name) for name in every):
            return _with_bits(method, settings)
    if any(_EIGHT_BIT_FLOATS.match(kind) for kind in others.values()):
        return "FP8"
    return "a method that config.json does not name" if settings else None


def _named(settings: Any) -> str | None:
    if not isinstance(settings, Mapping):
        return None
    method = settings.get("quant_method")
    if method is None and any(str(key).startswith(("load_in_", "bnb_")) for key in settings):
        method = "bitsandbytes"
    return None if method is None else _with_bits(_NAMES.get(str(method), str(method)), settings)


def _with_bits(method: str, settings: Any) -> str:
    if not isinstance(settings, Mapping):
        return method
    bits = settings.get("bits") or (4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else None)
    return f"{method} to {bits} bits" if isinstance(bits, int) else method
