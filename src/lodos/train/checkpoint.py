"""Checkpoints of the trainable state with Orbax.

Only what training changes is saved: trainable parameters, optimizer state, the step and the random key, each
array under its name. The frozen base has no place in a checkpoint. Orbax writes a folder under a temporary name
and renames it when it is whole, so the newest complete one is always safe to resume from.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from lodos import hosts
from lodos.errors import UserError
from lodos.places.place import Place, is_remote
from lodos.train.staged import Staged, staged
from lodos.train.state import TrainerState
from lodos.tree import combine, named_leaves


class Checkpointer:
    """The checkpoints of one run.

    Args:
        keep: how many of the newest to keep.
        stays: whether the checkpoint of a step is kept also when it is no longer among the newest.
        anew: the run begins from the start; checkpoints that are there already go when the first new one is written.
        fingerprint: what decides the numbers of the run, by name, in JSON's types; it is written with each checkpoint.
        looks: it is only looked at; of several hosts each may look by itself.

    Several hosts write and restore a checkpoint together, in a folder that all of them share.
    """

    def __init__(
        self,
        folder: Place,
        *,
        keep: int,
        stays: Callable[[int], bool] = lambda _: False,
        anew: bool = False,
        fingerprint: Mapping[str, Any] | None = None,
        looks: bool = False,
    ):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers

        self.folder = folder if is_remote(folder) else folder.absolute()
        self._staged = staged(folder, keep=keep, stays=stays)
        self._anew = anew
        self._fingerprint = None if fingerprint is None else json.loads(json.dumps(fingerprint))
        newest = checkpoint_managers.LatestN(keep)
        policy = checkpoint_managers.AnyPreservationPolicy([newest, _Staying(stays)])
        together = ocp.options.MultiprocessingOptions(
            primary_host=hosts.index() if looks else 0,
            # Named, they wait for each other at barriers with a time limit.
            active_processes={hosts.index()} if looks else set(range(hosts.count())),
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, create=False, multiprocessing_options=together
        )
        place = _for_orbax(self.folder, self._staged)
        place.mkdir(parents=True, exist_ok=True)
        # Named, so that a checkpoint's contents can be described before anything has been saved by this manager.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(place, options=options, item_handlers=handler)

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainerState) -> None:
        """Starts writing the state; the arrays are copied before this returns, the disk is written behind it."""
        import orbax.checkpoint as ocp

        step = int(state.step)
        if self._anew:
            for old in self._manager.all_steps():
                self._manager.delete(old)
            if self._staged is not None:
                self._staged.remove_all()
            self._anew = False
        if step in self._manager.all_steps():
            return
        if self._staged is not None:
            self._staged.wait()
        args = ocp.args.StandardSave(_to_tree(state))
        if not self._manager.save(step, args=args, custom_metadata=self._fingerprint):
            raise OSError(f"{self.folder}: step {step} was not written; the newest is {self.latest_step()}.")
        if self._staged is not None:
            self._staged.send(step, when=self._manager.wait_until_finished)

    def restore(self, state: TrainerState) -> TrainerState:
        """`state` as it was at the newest checkpoint, laid out on the devices as `state` is.

        Raises:
            UserError: when the checkpoint is of another run, or of other parameters than `state` trains; it lists what
                differs.
        """
        import orbax.checkpoint as ocp

        self.check_fingerprint()
        step = self.latest_step()
        assert step is not None
        wanted = _to_tree(state)
        self._check(step, wanted)
        abstract = jax.tree.map(_abstract, wanted)
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return _from_tree(state, restored)

    def check_fingerprint(self) -> None:
        """Compares the newest checkpoint's fingerprint, if it has one, with this run's.

        Raises:
            UserError: when they differ; it lists where.
        """
        step = self.latest_step()
        if step is None or self._fingerprint is None:
            return
        found = self._manager.metadata(step).custom_metadata or {}
        problems = [
            f"{name}: {_shown(found.get(name))} in the checkpoint, {_shown(self._fingerprint.get(name))} in this run."
            for name in found.keys() | self._fingerprint.keys()
            if found and found.get(name) != self._fingerprint.get(name)
        ]
        self._refuse(step, problems)

    def wait(self) -> None:
        """Returns when everything is on disk, or on the store."""
        self._manager.wait_until_finished()
        if self._staged is not None:
            self._staged.wait()

    def _check(self, step: int, wanted: PyTree) -> None:
        metadata = self._manager.item_metadata(step)
        found = {name: tuple(leaf.shape) for name, leaf in named_leaves(metadata.tree).items()}
        expected = {name: tuple(np.shape(leaf)) for name, leaf in named_leaves(wanted).items()}
        problems = [f"{name}: not in the checkpoint." for name in expected.keys() - found.keys()]
        problems += [f"{name}: not trained by this run." for name in found.keys() - expected.keys()]
        problems += [
            f"{name}: {list(found[name])} in the checkpoint, {list(shape)} in this run."
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ]
        self._refuse(step, problems)

    def _refuse(self, step: int, problems: Sequence[str]) -> None:
        if problems:
            raise UserError(
                f"{self.folder / str(step)}: the checkpoint is of another model, data or configuration:\n  "
                + "\n  ".join(sorted(problems))
                + "\nGive the configuration it was made with to go on with that run, another trainer.id for a new one, "
                "or trainer.load_checkpoint: false to begin this one anew."
            )


def _for_orbax(folder: Place, staged: Staged | None) -> Any:
    """The path that Orbax is given: it knows local ones and gs://, to which TensorStore writes by itself."""
    if staged is not None:
        return staged.folder
    if not is_remote(folder):
        return folder
    from etils import epath

    return epath.Path(str(folder))


class _Staying:
    """A preservation policy of Orbax: the checkpoints of chosen steps."""

    def __init__(self, stays: Callable[[int], bool]):
        self._stays = stays

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [self._stays(checkpoint.step) for checkpoint in checkpoints]


def _shown(value: Any) -> str:
    return "not there" if value is None else str(value)


def _to_tree(state: TrainerState) -> dict[str, Any]:
    return {
        "trainable": named_leaves(state.trainable),
        "opt_state": named_leaves(state.opt_state),
        "step": state.step,
        "training_key": jax.random.key_data(state.training_key),
    }


def _from_tree(state: TrainerState, tree: Mapping[str, Any]) -> TrainerState:
    def fill(template: PyTree, leaves: Mapping[str, Any]) -> PyTree:
        return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in named_leaves(template)])

    key = jax.random.wrap_key_data(tree["training_key"], impl=jax.random.key_impl(state.training_key))
    return TrainerState(
        tree["step"],
        combine(fill(state.trainable, tree["trainable"]), state.frozen),
        fill(state.opt_state, tree["opt_state"]),
        key,
        state.is_trainable,
    )


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
