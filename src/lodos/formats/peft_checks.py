"""What is looked at before an adapter is used or written: that it fits its base, is finite, and changes something."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from lodos.errors import UserError
from lodos.formats.merged import TIED_HEAD, ModelTensor, embedding_name, leaf_of_tensor, without_adapters
from lodos.formats.peft_keys import AdapterKeys
from lodos.formats.safetensors import SafetensorsReader
from lodos.formats.tensor_problems import problem_lines
from lodos.lora.config import LoraConfig
from lodos.lora.targets import matches
from lodos.lora.transform import adapted_names, lora_layers
from lodos.models.decoder import LmHeadModel

_FIX = "Merge the adapter in PEFT (merge_and_unload, then save_pretrained) and give that model in place of the two."

_SHOWN = 40
"""Lines: what each kind of layer has is wrong in a way of its own."""


def check_fit(
    path: Path,
    reader: SafetensorsReader,
    keys: AdapterKeys,
    expected: Mapping[str, tuple[int, ...]],
    copies: Sequence[str],
) -> None:
    """Raises a `UserError` that lists every tensor of the file that does not fit.

    Args:
        keys: what the file has.
        expected: the shape of each factor by PEFT's key, for the layers that the file adapts.
        copies: what `copy_problems` found.
    """
    wrong = [(name, "missing") for name in expected if name not in keys.factors]
    wrong += keys.problems
    wrong += [
        (key, "extra; no layer of this model takes it") for name, key in keys.factors.items() if name not in expected
    ]
    for name, shape in expected.items():
        if name in keys.factors and (found := reader.shapes[keys.factors[name]]) != shape:
            transposed = ". It is transposed" if found == shape[::-1] else ""
            wrong.append(
                (keys.factors[name], f"the file has {list(found)}, this model needs {list(shape)}{transposed}")
            )
    problems = [*problem_lines(wrong, shown=_SHOWN), *copies]
    if problems:
        raise UserError(f"{path}: the adapter does not fit the model:\n  " + "\n  ".join(problems))


def copy_problems(
    adapter: SafetensorsReader,
    keys: AdapterKeys,
    modules_to_save: Sequence[str],
    model: LmHeadModel,
    base: SafetensorsReader | None,
) -> Iterator[str]:
    """What keeps the base weights in an adapter's file from being mere copies, which change nothing.

    Args:
        modules_to_save: the modules that were trained whole, by adapter_config.json.
        base: of the base model's files; without it, the model's own weights are compared.
    """
    tensors = leaf_of_tensor(without_adapters(model))
    for name, key in keys.copies.items():
        if adapter.shapes[key] != tensors[name].shape:
            yield (
                f"{key}: {list(adapter.shapes[key])}, where the base model's {name} has {list(tensors[name].shape)}: "
                f"the vocabulary was resized, which an adapter cannot bring along. {_FIX}"
            )
        elif not _is_copy(adapter.read(key), _base_value(name, tensors, base), in_model=base is None):
            yield (
                f"{key}: differs from the base model's {name}, so it was trained beside the adapter or belongs to "
                f"another base. Weights trained whole are not implemented. {_FIX}"
            )
    saved = [name.rpartition(".")[0] for name in keys.copies]
    for entry in modules_to_save:
        if not any(matches([entry], name) for name in saved):
            yield f"modules_to_save: {entry!r} was trained whole, and the file has no weight of it. {_FIX}"


def check_config(config: LoraConfig, model: PyTree) -> None:
    """Refuses to write a config that is not of the ranks that the model has."""
    layers = lora_layers(model)
    problems = [
        f"{name}: the model has rank {layers[stacked].rank_of(index)}, the config says {config.rank_of(name)}."
        for stacked, names in adapted_names(model).items()
        for index, name in names
        if layers[stacked].rank_of(index) != config.rank_of(name)
    ]
    if problems:
        raise UserError("save_peft_pretrained: not the config of this model:\n  " + "\n  ".join(problems))


def refuse_not_finite(tensors: Mapping[str, np.ndarray], consequence: str) -> None:
    """Raises a `UserError` that names every tensor with NaN or infinite numbers."""
    if names := [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise UserError(
            f"{consequence}: numbers that are not finite (NaN or infinite):\n  "
            + "\n  ".join(problem_lines((name, "not finite") for name in names))
            + "\nThe training that made them diverged; use the adapter of an earlier step."
        )


def refuse_useless(model: PyTree, consequence: str) -> None:
    """Raises a `UserError` for an adapter that changes nothing, as one that was never trained."""
    layers = {name: layer.on_host() for name, layer in lora_layers(model).items()}
    seen: dict[str, bool] = {}
    for stacked_name, names in adapted_names(model).items():
        layer = layers[stacked_name]
        for index, _ in names:
            found = {
                name: bool(np.any(x))
                for name, x in zip(layer.factor_names, layer.file_tensors(index).values(), strict=True)
            }
            if all(found.values()):
                return
            for name, has_numbers in found.items():
                seen[name] = seen.get(name, False) or has_numbers
    zero = [name for name, has_numbers in seen.items() if not has_numbers]
    what = f"every {' and every '.join(zero)} is zero" if zero else "one factor of every layer is zero"
    raise UserError(f"{consequence}: {what}, so the adapter changes nothing. Was it trained?")


def _base_value(name: str, tensors: Mapping[str, ModelTensor], base: SafetensorsReader | None) -> np.ndarray:
    if base is None:
        return tensors[name].value()
    return base.read(embedding_name(tensors) if name == TIED_HEAD and name not in base.shapes else name)


def _is_copy(copy: np.ndarray, base: np.ndarray, *, in_model: bool) -> bool:
    """Whether the two are equal in the copy's dtype; or in the model's, where that is what is used in any case."""
    same = np.array_equal(base.astype(copy.dtype), copy)
    return same or (in_model and np.array_equal(copy.astype(base.dtype), base))
