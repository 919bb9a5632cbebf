"""What training starts from, where `initialize_from` names something: an adapter of PEFT or lodos, or a run of lodos.

Its A and B take the place of fresh ones. From a run, the optimizer's moments may come along; the schedule of the
learning rate begins anew. Everything is read and compared with the run's own settings before weights are loaded.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from lodos.commands.lora_model import model_options
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.folder_contents import ADAPTER_CONFIG
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import adapted_names, lora_layers, with_factors
from lodos.models.decoder import LmHeadModel
from lodos.places.manifest import DamagedError, problems, read_manifest
from lodos.places.place import Place, place_of
from lodos.train.checkpoint import read_arrays
from lodos.train.checkpoint_folder import CheckpointFolder
from lodos.train.state import TrainerState
from lodos.tree import combine, named_leaves, partition

_SHOWN = 8
_SCALING = ("alpha", "use_rslora", "rank_pattern", "alpha_pattern")


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """Arrays by the names that a checkpoint has for them."""

    trainable: Mapping[str, np.ndarray]
    opt_state: Mapping[str, np.ndarray] | None = None

    def model(self, model: LmHeadModel) -> LmHeadModel:
        """`model` with these A and B in place of its own, where and of the type that those are."""
        is_trainable = lora_trainable_params_filter(model)
        trainable, frozen = partition(model, is_trainable)
        leaves = [_like(leaf, self.trainable[name]) for name, leaf in named_leaves(trainable).items()]
        return combine(jax.tree.unflatten(jax.tree.structure(trainable), leaves), frozen)

    def state(self, state: TrainerState) -> TrainerState:
        """`state` with the optimizer's moments, if they come along.

        Raises:
            UserError: when the other run's optimizer was another.
        """
        if self.opt_state is None:
            return state
        own = named_leaves(state.opt_state)
        refuse_differing({name: np.shape(leaf) for name, leaf in own.items()}, self.opt_state, "initialize_optimizer")
        leaves = [_like(leaf, self.opt_state[name]) for name, leaf in own.items()]
        opt_state = jax.tree.unflatten(jax.tree.structure(state.opt_state), leaves)
        return dataclasses.replace(state, opt_state=_from_the_start(opt_state, state.opt_state))


def starting_point(config: TrainArgs, converter: HFCheckpointConverter, shapes: LmHeadModel) -> StartingPoint | None:
    """What `config.initialize_from` names; None where it names nothing.

    Args:
        shapes: of the model that will be trained, with its adapters.

    Raises:
        UserError: when it is not there, is damaged, or is not what this config trains, with what to write.
    """
    if config.initialize_from is None:
        return None
    place = place_of(config.initialize_from)
    checkpoint = None if (place / ADAPTER_CONFIG).exists() else _checkpoint_of(place)
    if checkpoint is not None:
        return _of_checkpoint(config, checkpoint, shapes)
    if config.initialize_optimizer:
        raise UserError(
            f"initialize_optimizer: {config.initialize_from} is no run and no checkpoint, and an adapter has no "
            "optimizer. Give a run of lodos, or leave it out."
        )
    return _of_adapter(config, converter, shapes)


def initialize_fingerprint(config: TrainArgs) -> dict[str, Any]:
    """What of it a resumed run is compared by."""
    names = ("initialize_from", "initialize_optimizer")
    return {name: value for name in names if (value := getattr(config, name))}


def _of_adapter(config: TrainArgs, converter: HFCheckpointConverter, shapes: LmHeadModel) -> StartingPoint:
    assert config.initialize_from is not None
    base = converter.structure(**model_options(config))
    adapted, lora = load_peft_pretrained(base, config.initialize_from, base=converter.reader())
    theirs, ours = _layers(adapted), _layers(shapes)
    differing = [
        f"{name}: {theirs.get(name, 'none')} in the adapter, {ours.get(name, 'none')} in this run."
        for name in dict.fromkeys([*ours, *theirs])
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        more = f"\n  and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"initialize_from: {config.initialize_from} has other LoRA layers than this run trains:\n  "
            + "\n  ".join(differing[:_SHOWN])
            + f"{more}\nWrite the adapter's: {_written(lora)}"
        )
    factors = {name: layer.factors for name, layer in lora_layers(adapted).items()}
    whole = with_factors(shapes, factors)
    trainable, _ = partition(whole, lora_trainable_params_filter(whole))
    return StartingPoint({name: np.asarray(leaf) for name, leaf in named_leaves(trainable).items()})


def _of_checkpoint(config: TrainArgs, place: Place, shapes: LmHeadModel) -> StartingPoint:
    facts = read_manifest(place).facts
    if found := problems(place):
        raise UserError(f"initialize_from: {place}: not as it was written: {'; '.join(found[:_SHOWN])}.")
    theirs = facts.get("fingerprint") or {}
    ours = {name: getattr(config.lora, name) for name in _SCALING}  # the shapes of the arrays say the rest
    differing = [
        f"lora.{name}: {theirs[f'lora.{name}']} in that run, {value} in this one."
        for name, value in ours.items()
        if f"lora.{name}" in theirs and theirs[f"lora.{name}"] != value
    ]
    if differing:
        raise UserError(
            f"initialize_from: {place} has other LoRA layers than this run trains:\n  " + "\n  ".join(differing)
        )
    arrays = read_arrays(place)
    expected, _ = partition(shapes, lora_trainable_params_filter(shapes))
    shapes_of = {name: tuple(leaf.shape) for name, leaf in named_leaves(expected).items()}
    refuse_differing(shapes_of, arrays["trainable"], f"initialize_from: {place}")
    return StartingPoint(arrays["trainable"], arrays["opt_state"] if config.initialize_optimizer else None)


def refuse_differing(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray], what: str) -> None:
    """Raises a `UserError` that lists the arrays that are not those expected."""
    differing = [
        f"{name}: {list(found[name].shape) if name in found else 'not'} there, "
        f"{list(expected[name]) if name in expected else 'not'} in this run."
        for name in dict.fromkeys([*expected, *found])
        if name not in found or name not in expected or tuple(found[name].shape) != tuple(expected[name])
    ]
    if differing:
        raise UserError(f"{what}: not what this run trains:\n  " + "\n  ".join(differing[:_SHOWN]))


def _checkpoint_of(place: Place) -> Place | None:
    """The checkpoint that a place is, or the newest whole one of a run or of a folder of checkpoints."""
    try:
        if "arrays" in read_manifest(place).facts:
            return place
    except DamagedError:
        pass
    for folder in (CheckpointFolder(place / "train_state"), CheckpointFolder(place)):
        for step in reversed(folder.steps()):
            if not problems(folder.place / str(step)):
                return folder.place / str(step)
    return None


def _layers(model: PyTree) -> dict[str, str]:
    """What decides whether two adapters of a layer are interchangeable, by Hugging Face's name of the layer."""
    layers = lora_layers(model)
    return {
        name: f"rank {layers[stacked].rank_of(index)}, scale {_scale(layers[stacked].scale, index):g}"
        for stacked, names in adapted_names(model).items()
        for index, name in names
    }


def _scale(scale: Any, index: int | None) -> float:
    return float(scale[index or 0] if isinstance(scale, tuple) else scale)


def _written(lora: LoraConfig) -> str:
    """The settings that make an adapter as another is, as flags."""
    default = LoraConfig()
    names = ("r", "target_modules", *_SCALING)
    values = {name: getattr(lora, name) for name in names}
    return " ".join(
        f"--lora.{name} {_flag(value)}"
        for name, value in values.items()
        if value != getattr(default, name) or name in ("r", "alpha")
    )


def _flag(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else shlex.quote(json.dumps(value))


def _like(leaf: Any, value: np.ndarray) -> Any:
    return jax.device_put(np.asarray(value, leaf.dtype), leaf.sharding)


def _from_the_start(opt_state: PyTree, fresh: PyTree) -> PyTree:
    """The state with the counts of schedules as they are in a fresh one: the learning rate begins anew."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(lambda node, new: new if is_schedule(node) else node, opt_state, fresh, is_leaf=is_schedule)
