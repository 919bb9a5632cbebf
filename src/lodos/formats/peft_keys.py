"""Which tensor of which layer a key of an adapter's file means.

PEFT writes `base_model.model.<module>.lora_A.weight`. Other tools, and other ways to save, leave marks of how the
model was wrapped, which mean nothing:

    _orig_mod, _fsdp_wrapped_module, ...      torch.compile, FSDP, checkpointing, DDP
    base_model.model., none or twice          saved without PEFT's wrapper, or through two
    lora_A.default.weight                     the adapter's name

A key is read only if what is left is a layer of this model and no other key means the same. PEFT also writes copies of
base weights (`lm_head.base_layer.weight`, `embed_tokens.weight`), which the caller has to compare with the base.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

PREFIX = "base_model.model."

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_IN_PARAMETERS = ("lora_embedding_A", "lora_embedding_B")
_IN_MODULES = ("lora_A", "lora_B")
_COPIES = ("base_layer", "original_module", "modules_to_save")


@dataclasses.dataclass(frozen=True)
class AdapterKeys:
    """The keys of a file by what they mean."""

    factors: dict[str, str]
    """PEFT's own key of each factor: the key in the file."""
    copies: dict[str, str]
    """The name of a base model's tensor: the key in the file."""
    modules: frozenset[str]
    """The modules that have factors."""
    problems: list[tuple[str, str]]
    """Every key that means nothing here, something else than LoRA, or the same as another: (key, the reason)."""


def peft_key(module: str, suffix: str) -> str:
    """PEFT's key of a factor of the module with this Hugging Face name."""
    return f"{PREFIX}{module}.{suffix}"


def read_keys(keys: Iterable[str], modules: Collection[str], base_tensors: Collection[str]) -> AdapterKeys:
    """What the keys mean for a model.

    Args:
        modules: the names of the layers that can be adapted.
        base_tensors: the names of the base model's tensors.
    """
    factors: dict[str, str] = {}
    copies: dict[str, str] = {}
    of_adapter: dict[str | None, str] = {}
    adapted: set[str] = set()
    problems: list[tuple[str, str]] = []
    for key in keys:
        module, suffix, adapter = _parts(_without_wrappers(key))
        module = next((name for name in (module, f"model.{module}") if name in modules), module)
        if suffix in ("lora_A.weight", "lora_B.weight", *_IN_PARAMETERS) and module in modules:
            place, meaning = factors, peft_key(module, suffix)
            of_adapter.setdefault(adapter, key)
            adapted.add(module)
        elif (name := f"{module}.{suffix}") in base_tensors:
            place, meaning = copies, name
        else:
            problems.append((key, _what_is_wrong(key, module, modules)))
            continue
        if meaning in place:
            problems.append((key, f"means the same tensor as {place[meaning]}. Remove the one that is not meant"))
        place[meaning] = key
    if len(of_adapter) > 1:
        examples = " and ".join(of_adapter.values())
        problems.append(
            (f"the keys are of {len(of_adapter)} adapters", f"{examples}. Save each to a folder of its own")
        )
    return AdapterKeys(factors, copies, frozenset(adapted), problems)


def _without_wrappers(key: str) -> list[str]:
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    while parts[:1] == ["module"] or parts[:2] == PREFIX.split(".")[:2]:
        parts = parts[1:] if parts[0] == "module" else parts[2:]
    return parts


def _parts(parts: list[str]) -> tuple[str, str, str | None]:
    """The module, what of it the key is, and the name of the adapter if the key has one."""

    def after(index: int) -> tuple[str, list[str]]:
        return ".".join(parts[:index]), parts[index + 1 :]

    for index, part in enumerate(parts):
        match part, after(index):
            case _, (module, ["weight"]) if part in _IN_MODULES:
                return module, f"{part}.weight", None
            case _, (module, [adapter, "weight"]) if part in _IN_MODULES:
                return module, f"{part}.weight", adapter
            case _, (module, []) if part in _IN_PARAMETERS:
                return module, part, None
            case _, (module, [adapter]) if part in _IN_PARAMETERS:
                return module, part, adapter
            case _, (module, [*adapter, ("weight" | "bias") as what]) if part in _COPIES and len(adapter) <= 1:
                return module, what, None
    *module, last = parts or [""]
    return ".".join(module), last, None


def _what_is_wrong(key: str, module: str, modules: Collection[str]) -> str:
    meanings: Mapping[str, str] = {
        "lora_magnitude_vector": "DoRA's magnitudes (use_dora), which are not implemented",
        "lora_B.bias": "a bias of the adapter (lora_bias), which is not implemented",
        "lora_B.default.bias": "a bias of the adapter (lora_bias), which is not implemented",
        "lora_a": "a factor of an MLX adapter, not of PEFT's",
        "lora_b": "a factor of an MLX adapter, not of PEFT's",
    }
    for mark, meaning in meanings.items():
        if f".{mark}." in f"{key}.":
            return meaning
    if module.rsplit(".", 1)[-1] == "lm_head" and "lm_head" not in modules:
        return (
            "extra; this model's output head is its embedding (tie_word_embeddings: true), and has no layer of its own"
        )
    return "extra; no layer of this model takes it"
