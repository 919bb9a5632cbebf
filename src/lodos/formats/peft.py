"""PEFT adapter folders in and out.

A stacked factor `model.layers.*.self_attn.q_proj.lora_A` `[layers, r, in]` is one tensor a layer in the file:

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight   [r, in]
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight   [out, r]

PEFT loads with `strict=False`: a key it does not know is only a warning, and a B left at zero is a model that
was never trained. So an adapter of zeros is refused on the way out and on the way in, and so is any key that
does not fit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lodos.errors import UserError
from lodos.files import read_json, write_json, written_whole
from lodos.formats.hub import model_folder
from lodos.formats.model_card import RunFacts, adapter_card
from lodos.formats.peft_config import AdapterConfig, from_peft, to_peft
from lodos.formats.safetensors import SafetensorsReader, save_and_compare
from lodos.formats.tokenizer_files import copy_tokenizer
from lodos.lora.config import LoraConfig
from lodos.lora.targets import suffixes_selecting
from lodos.lora.transform import adapted_names, lora_layers, loraize, named_linears, with_factors
from lodos.sharding import AxisMapping, named_shardings

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."

Model = TypeVar("Model", bound=PyTree)


def save_peft_pretrained(
    model: PyTree,
    config: LoraConfig,
    base_model_name_or_path: str,
    path: str | Path,
    *,
    base_folder: Path | None = None,
    chat_template: str | None = None,
    facts: RunFacts | None = None,
    repo: str | None = None,
    allow_untrained: bool = False,
) -> None:
    """Writes the adapter of a loraized model as the folder PEFT's `save_pretrained` would write.

    Args:
        base_model_name_or_path: what adapter_config.json names as the base model.
        base_folder: the base model's files, whose tokenizer goes along; by default found by the name.
        chat_template: that it was trained with, if it is not the base model's.
        facts: what the model card tells of the run.
        repo: the hub repository that the model card says to load it from; by default the folder itself.
        allow_untrained: write an adapter that changes nothing; refused by default.

    Raises:
        UserError: if the model has no LoRA layers, or its adapter is all zero.
        OSError: if what is read back is not what was written; nothing is left at `path` then.
    """
    tensors = peft_state_dict(model)
    if not tensors:
        raise UserError("save_peft_pretrained: the model has no LoRA layers. Call loraize first.")
    if not allow_untrained:
        _refuse_zeros(tensors, f"{path}: nothing was written")
    adapted = [name for names in adapted_names(model).values() for _, name in names]
    linear_names = [name for names in named_linears(model).values() for name in names]
    target_modules = suffixes_selecting(adapted, linear_names)
    fields = to_peft(config, target_modules, base_model_name_or_path)
    with written_whole(path) as folder:
        save_and_compare(folder / WEIGHTS_NAME, tensors)
        write_json(folder / CONFIG_NAME, fields)
        base_folder = base_folder or model_folder(base_model_name_or_path, weights=False)
        copy_tokenizer(base_folder, folder, chat_template=chat_template)
        card = adapter_card(config, base_model_name_or_path, target_modules, facts or RunFacts(), repo=repo)
        (folder / "README.md").write_text(card, encoding="utf-8")


def load_peft_pretrained(
    model: Model, path: str | Path, *, axis_mapping: AxisMapping | None = None
) -> tuple[Model, LoraConfig]:
    """`model` with the adapter at `path`, made here or by PEFT, and the adapter's config.

    Args:
        path: a folder or a hub name.
        axis_mapping: the layout of the factors on the ambient mesh; whole on every device by default.

    Raises:
        UserError: that lists every tensor that is missing, extra or misshapen for this model, every setting that
            is not implemented, or says that the adapter is all zero.
    """
    folder = model_folder(str(path))
    lora = read_adapter_config(folder).lora
    reader = _open(folder)
    linears = named_linears(model)
    found = {_module_of(key) for key in reader.shapes if key.startswith(_PREFIX)}
    adapted = [name for names in linears.values() for name in names if name in found]
    if not adapted:
        raise UserError(
            f"{folder / WEIGHTS_NAME}: no tensor belongs to this model; the first is "
            f"{next(iter(reader.shapes), None)!r}."
        )
    # The tensors say what was adapted; target_modules may be a pattern that means more on this model.
    every_name = [name for names in linears.values() for name in names]
    lora = LoraConfig(
        target_modules=suffixes_selecting(adapted, every_name),
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        init=lora.init,
    )
    adapted_model = loraize(model, lora, key=jax.random.key(0))
    _check(folder / WEIGHTS_NAME, reader, peft_shapes(adapted_model))
    tensors = {name: reader.read(name).astype(np.float32) for name in reader.shapes}
    _refuse_zeros(tensors, f"{folder / WEIGHTS_NAME}: not loaded")
    return _with_tensors(adapted_model, tensors, axis_mapping), lora


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The config of an adapter folder, refused if it asks for what is not implemented."""
    return from_peft(read_json(folder / CONFIG_NAME), folder / CONFIG_NAME)


def peft_state_dict(model: PyTree) -> dict[str, np.ndarray]:
    """The adapter's tensors by PEFT's key names, float32, on the host."""
    tensors = {}
    layers = lora_layers(model)
    for stacked_name, names in adapted_names(model).items():
        layer = layers[stacked_name]
        factors = {"lora_A": np.asarray(layer.lora_A, np.float32), "lora_B": np.asarray(layer.lora_B, np.float32)}
        for index, name in names:
            for factor, array in factors.items():
                tensors[_key(name, factor)] = array if index is None else array[index]
    return tensors


def peft_shapes(model: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of each adapter tensor by PEFT's key names."""
    layers = lora_layers(model)
    return {
        _key(name, factor): getattr(layers[stacked_name], factor).shape[-2:]
        for stacked_name, names in adapted_names(model).items()
        for _, name in names
        for factor in ("lora_A", "lora_B")
    }


def _key(module: str, factor: str) -> str:
    return f"{_PREFIX}{module}.{factor}.weight"


def _module_of(key: str) -> str:
    return key.removeprefix(_PREFIX).rsplit(".lora_", 1)[0]


def _open(folder: Path) -> SafetensorsReader:
    if not (folder / WEIGHTS_NAME).exists() and (folder / "adapter_model.bin").exists():
        raise UserError(
            f"{folder}: only adapter_model.bin, a Python pickle, which can run any code when it is opened. Load it "
            "once in PEFT and save it again: save_pretrained writes safetensors."
        )
    if not (folder / WEIGHTS_NAME).exists():
        raise UserError(f"{folder}: no {WEIGHTS_NAME}.")
    return SafetensorsReader(folder / WEIGHTS_NAME)


def _check(path: Path, reader: SafetensorsReader, expected: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"{name}: missing." for name in expected if name not in reader.shapes]
    problems += [f"{name}: extra; no layer of this model takes it." for name in reader.shapes if name not in expected]
    problems += [
        f"{name}: the file has {list(reader.shapes[name])}, this model needs {list(shape)}."
        for name, shape in expected.items()
        if name in reader.shapes and reader.shapes[name] != shape
    ]
    if problems:
        raise UserError(f"{path}: the adapter does not fit the model:\n  " + "\n  ".join(problems))


def _refuse_zeros(tensors: Mapping[str, np.ndarray], consequence: str) -> None:
    """The product of the factors is zero where either of them is, so both kinds must hold something."""
    for factor in ("lora_A", "lora_B"):
        if not any(np.any(tensor) for name, tensor in tensors.items() if f".{factor}." in name):
            raise UserError(f"{consequence}: every {factor} is zero, so the adapter changes nothing. Was it trained?")


def _with_tensors(model: Model, tensors: Mapping[str, np.ndarray], axis_mapping: AxisMapping | None) -> Model:
    factors = {}
    for stacked_name, names in adapted_names(model).items():
        layer = lora_layers(model)[stacked_name]
        arrays = []
        for factor in ("lora_A", "lora_B"):
            array = np.zeros(getattr(layer, factor).shape, np.float32)
            for index, name in names:
                array[... if index is None else index] = tensors[_key(name, factor)]
            arrays.append(jnp.asarray(array))
        factors[stacked_name] = (arrays[0], arrays[1])
    loaded = with_factors(model, factors)
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return loaded
    shardings = named_shardings(loaded, axis_mapping or {}, mesh)
    return jax.tree.map(lambda leaf, sharding: jax.device_put(leaf, sharding), loaded, shardings)
