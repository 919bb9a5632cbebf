"""Hugging Face's rope settings, in either spelling, as a `RotaryConfig`.

transformers 5 writes `rope_parameters: {rope_theta, rope_type, ...}`, transformers 4 wrote `rope_theta` beside
`rope_scaling: {type or rope_type, ...}`. Reading one as the other silently falls back to theta 10000, so
both are read here. Keys that transformers reads for no rope type of these models are without effect, here as there:
those in wide use silently, others with a remark.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from lodos.errors import UserError
from lodos.nn.rotary import ROPE_TYPES, RotaryConfig

logger = logging.getLogger(__name__)

_REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor"),
}
_WITHOUT_EFFECT = {
    "attn_factor": "YaRN's own code reads it, transformers reads attention_factor",
    "finetuned": "YaRN's own code",
    "max_position_embeddings": "that of config.json counts",
    "extrapolation_factor": "YaRN's own code",
    "short_mscale": "PhiMoE's",
    "long_mscale": "PhiMoE's",
    "mrope_section": "in text all its positions are one",
    "mrope_interleaved": "likewise",
    "alpha": "Hunyuan's",
    "llama_4_scaling_beta": "of queries, Ministral's",
}
"""What models in wide use have among their rope settings, and why it changes nothing."""
_DECIDED = {"rotary_dim", "max_position_embeddings", "interleaved"}
_FIELDS = {field.name for field in dataclasses.fields(RotaryConfig)} - _DECIDED


def rotary_config(
    hf_config: Mapping[str, Any],
    head_dim: int,
    *,
    partial: bool = False,
    layer_type: str | None = None,
    **own: Any,
) -> RotaryConfig:
    """The rotary embedding that a config.json describes.

    Args:
        layer_type: whose settings, where `rope_parameters` has some for each type of layer.
        partial: whether the model_type knows `partial_rotary_factor`, the part of a head that is turned.
        own: what the model_type decides.

    Raises:
        UserError: for an unknown rope type, a parameter that is missing or one that is not implemented.
    """
    parameters = dict(hf_config.get("rope_parameters") or hf_config.get("rope_scaling") or {})
    if layer_type is not None:
        parameters = dict(parameters[layer_type])
    if hf_config.get("rope_theta") is not None:
        parameters.setdefault("rope_theta", hf_config["rope_theta"])
    rope_type = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    problems = []
    if rope_type not in ROPE_TYPES:
        problems.append(f"rope_type: {rope_type!r} is not one of {', '.join(ROPE_TYPES)}.")
    problems += [
        f"rope_parameters: {rope_type} needs {name}."
        for name in _REQUIRED.get(rope_type, ())
        if not parameters.get(name)
    ]
    part = parameters.pop("partial_rotary_factor", None)
    part = 1.0 if part is None else part
    if not partial and part != 1.0:
        problems.append("partial_rotary_factor: only 1.0 is implemented for this model_type.")
    rotary_dim = int(head_dim * part)
    if partial and (not 0 < rotary_dim <= head_dim or rotary_dim % 2):
        problems.append(f"partial_rotary_factor: {part} of a head of {head_dim} is {rotary_dim}, and pairs are turned.")
    for name in ("short_factor", "long_factor"):
        factors = parameters.get(name) or ()
        if factors and len(factors) != rotary_dim // 2:
            problems.append(f"{name}: {len(factors)} factors for the {rotary_dim // 2} frequencies of a head.")
    unread = [name for name in parameters if name not in _FIELDS]
    problems += [
        f"rope_parameters: {name}: settings for each kind of layer are not implemented for this model_type."
        for name in unread
        if isinstance(parameters[name], Mapping)
    ]
    if problems:
        raise UserError("\n".join(problems))
    if unknown := [name for name in unread if name not in _WITHOUT_EFFECT]:
        logger.warning(
            "config.json: %s among the rope settings: without effect for rope_type %s, in transformers too.",
            ", ".join(unknown),
            rope_type,
        )
    if parameters.get("truncate", True) is None:
        parameters["truncate"] = False  # in transformers a null is no truth
    # Any other null means "as if it were not there".
    given = {name: value for name, value in parameters.items() if name in _FIELDS and value is not None}
    # Older long-context models keep the original length beside the rope settings; there it wins, as in transformers.
    if (original := hf_config.get("original_max_position_embeddings")) is not None:
        given["original_max_position_embeddings"] = original
    for name in ("short_factor", "long_factor"):
        if name in given:
            given[name] = tuple(given[name])
    longest = hf_config.get("max_position_embeddings") or 2048
    return RotaryConfig(rotary_dim=rotary_dim, max_position_embeddings=longest, rope_type=rope_type, **given, **own)
