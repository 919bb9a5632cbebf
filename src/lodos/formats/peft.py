"""PEFT adapter folders in and out.

A stacked factor `model.layers.*.self_attn.q_proj.lora_A` `[layers, r, in]` is one tensor a layer in the file:

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight   [r, in]
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight   [out, r]

PEFT loads with `strict=False`: a key it does not know is only a warning, and a B left at zero is a model that
was never trained. So an adapter of zeros is refused on the way out and on the way in, and so is any key that
does not fit, and any number that is not finite.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lodos import hosts
from lodos.errors import UserError
from lodos.files import write_compared, write_json
from lodos.formats.folder_contents import adapter_folder
from lodos.formats.generation_config import write_generation_config
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.hub import model_folder
from lodos.formats.merged import leaf_of_tensor
from lodos.formats.model_card import RunFacts, adapter_card
from lodos.formats.peft_checks import check_config, check_fit, copy_problems, refuse_not_finite, refuse_useless
from lodos.formats.peft_config import AdapterConfig, from_peft, to_peft
from lodos.formats.peft_keys import peft_key, read_keys
from lodos.formats.safetensors import SafetensorsReader
from lodos.formats.safetensors_writer import save_and_compare
from lodos.formats.tensor_problems import problem_lines
from lodos.formats.text_part import as_pattern
from lodos.formats.tokenizer_files import copy_tokenizer, has_tokenizer, load_tokenizer
from lodos.json_files import read_object
from lodos.lora.config import LoraConfig
from lodos.lora.patterns import deciding, in_any_order
from lodos.lora.targets import suffixes_selecting
from lodos.lora.transform import adaptable_names, adapted_names, lora_layers, loraize, loraized_shapes, with_factors
from lodos.models.decoder import LmHeadModel
from lodos.places.place import Place
from lodos.places.saving import saved_whole
from lodos.prompting.description import Prompting, write_prompting
from lodos.sharding import AxisMapping, named_shardings

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

Model = TypeVar("Model", bound=LmHeadModel)


def save_peft_pretrained(
    model: LmHeadModel,
    config: LoraConfig,
    base_model_name_or_path: str,
    path: str | Place,
    *,
    base_folder: Path | None = None,
    chat_template: str | None = None,
    prompting: Prompting | None = None,
    facts: RunFacts | None = None,
    repo: str | None = None,
    allow_untrained: bool = False,
) -> None:
    """Writes the adapter of a loraized model as the folder PEFT's `save_pretrained` would write.

    All of several hosts call it, and the first one writes.

    Args:
        base_model_name_or_path: what adapter_config.json names as the base model.
        base_folder: the base model's files, whose tokenizer goes along; by default found by the name.
        chat_template: that it was trained with, if it is not the base model's.
        prompting: how it has to be asked, which goes along, with a generation config in which the trained end tokens
            end an answer.
        facts: what the model card tells of the run.
        repo: the hub repository that the model card says to load it from; by default the folder itself.
        allow_untrained: write an adapter that changes nothing; refused by default.

    Raises:
        UserError: if the model has no LoRA layers or other ranks than the config, or its adapter is zero or not finite.
        OSError: if what is read back is not what was written; nothing is left at `path` then.
    """
    tensors = peft_state_dict(model)
    if not tensors:
        raise UserError("save_peft_pretrained: the model has no LoRA layers. Call loraize first.")
    check_config(config, model)
    refuse_not_finite(tensors, f"{path}: nothing was written")
    if not allow_untrained:
        refuse_useless(model, f"{path}: nothing was written")
    if not hosts.is_first():
        return
    adapted = [name for names in adapted_names(model).values() for _, name in names]
    target_modules = suffixes_selecting(adapted, adaptable_names(model))
    patterns = {
        "rank_pattern": in_any_order(config.rank_pattern, adapted, config.r),
        "alpha_pattern": in_any_order(config.alpha_pattern, adapted, config.alpha),
    }
    asked = as_pattern(target_modules) if model.config.is_text_part else target_modules
    fields = to_peft(dataclasses.replace(config, **patterns), asked, base_model_name_or_path)
    with saved_whole(path) as folder:
        save_and_compare(folder / WEIGHTS_NAME, tensors)
        write_json(folder / CONFIG_NAME, fields)
        base_folder = base_folder or model_folder(base_model_name_or_path, weights=False)
        copy_tokenizer(base_folder, folder, chat_template=chat_template)
        if prompting is not None:
            write_prompting(prompting, folder)
            write_generation_config(base_folder, folder, [token.id for token in prompting.end_tokens])
        facts = dataclasses.replace(facts or RunFacts(), prompting=prompting)
        tokenizer = load_tokenizer(folder) if prompting is not None and has_tokenizer(folder) else None
        card = adapter_card(config, base_model_name_or_path, target_modules, facts, tokenizer=tokenizer, repo=repo)
        write_compared(folder / "README.md", card)


def load_peft_pretrained(
    model: Model,
    path: str | Place,
    *,
    axis_mapping: AxisMapping | None = None,
    base: SafetensorsReader | None = None,
) -> tuple[Model, LoraConfig]:
    """`model` with the adapter at `path`, made here or by PEFT, and the adapter's config.

    Args:
        model: without adapters. It may be one of shapes without arrays.
        path: a folder or a hub name.
        axis_mapping: the layout of the factors on the ambient mesh; whole on every device by default.
        base: the base model's files, with which copies of base weights in the adapter's file are compared; by default
            they are compared with the model's own weights.

    Raises:
        UserError: that lists every tensor that is missing, extra or misshapen for this model, every setting that
            is not implemented, or says that the adapter is all zero or not finite.
    """
    folder = adapter_folder(str(path))
    config = read_adapter_config(folder)
    reader = _open(folder)
    file = folder / WEIGHTS_NAME
    names = adaptable_names(model)
    keys = read_keys(reader.shapes, names, leaf_of_tensor(model))
    if not keys.modules:
        raise UserError(
            f"{file}: no tensor belongs to this model; the first is {next(iter(reader.shapes), None)!r}."
            + "".join(f"\n  {line}" for line in problem_lines(keys.problems))
        )
    lora = _as_in_tensors(config.lora, [name for name in names if name in keys.modules], names)
    copies = list(copy_problems(reader, keys, config.modules_to_save, model, base))
    # As shapes first: a rank that only the config has would take memory without bound.
    check_fit(file, reader, keys, peft_shapes(loraized_shapes(model, lora)), copies)
    adapted_model = loraize(model, lora, key=jax.random.key(0))
    tensors = {name: reader.read(key).astype(np.float32) for name, key in keys.factors.items()}
    refuse_not_finite({keys.factors[name]: tensor for name, tensor in tensors.items()}, f"{file}: not loaded")
    loaded = _with_tensors(adapted_model, tensors, axis_mapping)
    refuse_useless(loaded, f"{file}: not loaded")
    return loaded, lora


def _as_in_tensors(config: LoraConfig, adapted: list[str], names: list[str]) -> LoraConfig:
    """The config that adapts what the file has tensors for: a pattern may mean more, or other layers, on this model."""
    return dataclasses.replace(
        config,
        target_modules=suffixes_selecting(adapted, names),
        exclude_modules=None,
        rank_pattern=deciding(config.rank_pattern, adapted),
        alpha_pattern=deciding(config.alpha_pattern, adapted),
    )


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The config of an adapter folder, refused if it asks for what is not implemented."""
    file = folder / CONFIG_NAME
    return from_peft(read_object(file), file)


def peft_state_dict(model: PyTree) -> dict[str, np.ndarray]:
    """The adapter's tensors by PEFT's key names, float32, on the host."""
    layers = {name: layer.on_host() for name, layer in lora_layers(model).items()}
    return {
        peft_key(name, suffix): tensor
        for stacked_name, names in adapted_names(model).items()
        for index, name in names
        for suffix, tensor in layers[stacked_name].file_tensors(index).items()
    }


def peft_shapes(model: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of each adapter tensor by PEFT's key names."""
    layers = lora_layers(model)
    return {
        peft_key(name, suffix): shape
        for stacked_name, names in adapted_names(model).items()
        for index, name in names
        for suffix, shape in layers[stacked_name].file_shapes(index).items()
    }


def check_adapter(folder: Path, converter: HFCheckpointConverter) -> None:
    """Looks at everything of an adapter that can be wrong, before the base model's weights are loaded.

    Raises:
        UserError: as `load_peft_pretrained` does.
    """
    _open(folder)
    load_peft_pretrained(converter.structure(), folder, base=converter.reader())


def _open(folder: Path) -> SafetensorsReader:
    if not (folder / WEIGHTS_NAME).exists() and (folder / "adapter_model.bin").exists():
        raise UserError(
            f"{folder}: only adapter_model.bin, a Python pickle, which can run any code when it is opened. Load it "
            "once in PEFT and save it again: save_pretrained writes safetensors."
        )
    if not (folder / WEIGHTS_NAME).exists():
        there = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise UserError(f"{folder}: no {WEIGHTS_NAME}. There are {there}.")
    return SafetensorsReader(folder / WEIGHTS_NAME)


def _with_tensors(model: Model, tensors: Mapping[str, np.ndarray], axis_mapping: AxisMapping | None) -> Model:
    factors = {}
    for stacked_name, names in adapted_names(model).items():
        layer = lora_layers(model)[stacked_name]
        A, B = (np.zeros(factor.shape, np.float32) for factor in layer.factors)
        for index, name in names:
            of_layer, rank = (... if index is None else index), layer.rank_of(index)
            in_file_A, in_file_B = (tensors[peft_key(name, suffix)] for suffix in layer.names_in_files)
            A[of_layer][:rank], B[of_layer][:, :rank] = in_file_A, in_file_B
        factors[stacked_name] = (jnp.asarray(A), jnp.asarray(B))
    loaded = with_factors(model, factors)
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return loaded
    shardings = named_shardings(loaded, axis_mapping or {}, mesh)
    return jax.tree.map(lambda leaf, sharding: jax.device_put(leaf, sharding), loaded, shardings)
