"""Tiny models of each family, in odd shapes: a file for each model_type, which `tests/models/test_families.py` reads.

CASES      name: what config.json has beside `SHAPE`; the first is trained, saved and split over devices,
           the others are long tests
REFUSED    name: (what config.json has, what the refusal says)
NOT_SPLIT  parts of names of weights of the first case that tensor parallelism leaves whole
"""

import importlib
from types import ModuleType
from typing import Any

from lodos.models.auto import MODEL_TYPES

TESTED_APART = ("llama", "mistral", "qwen2", "qwen3")
"""Those whose tests the rest of the tests are."""
FAMILIES: dict[str, ModuleType] = {
    model_type: importlib.import_module(f"family_cases.{model_type}")
    for model_type in MODEL_TYPES
    if model_type not in TESTED_APART
}
SHAPE: dict[str, Any] = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
)


def first_case(model_type: str, **text: Any) -> dict[str, Any]:
    """The config of the first case of a family, with these fields of its text."""
    return shaped(next(iter(FAMILIES[model_type].CASES.values())), **text)


def shaped(case: dict[str, Any], **text: Any) -> dict[str, Any]:
    if "text_config" not in case:
        return {**SHAPE, **case, **text}
    return {**case, "text_config": {**SHAPE, **case["text_config"], **text}}
