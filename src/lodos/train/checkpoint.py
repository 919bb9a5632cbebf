"""Checkpoints of the trainable state with Orbax.

Only what training changes is saved: trainable parameters, optimizer state, the step and the random key, each
array under its name. The frozen base has no place in a checkpoint.

    save      copies the arrays, and returns
    behind    Orbax writes them; what it wrote is read back and compared, array by array; files, folder and manifest are
              flushed to the disk; the folder gets its name; older checkpoints go that nobody keeps
    restore   of a checkpoint whose files are those of its manifest; the arrays are compared once more

Where checkpoints lie, and which of them are whole: `lodos.train.checkpoint_folder`.
"""

import functools
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lodos import hosts
from lodos.errors import UserError
from lodos.places.place import Place, is_remote
from lodos.places.store import failures_of
from lodos.target import target
from lodos.train.checkpoint_folder import CheckpointFolder
from lodos.train.staged import is_staged, local_copy, refuse_together, scratch_folder
from lodos.train.state import TrainerState
from lodos.tree import combine, named_leaves


class Checkpointer:
    """Writes and restores the checkpoints of one run.

    Args:
        keep: how many of the newest to keep.
        stays: whether the checkpoint of a step is kept also when it is no longer among the newest.
        after: the run goes on from this step; checkpoints of later ones, of a run that is done anew from there, go
            when the first new one is written.
        fingerprint: what decides the numbers of the run, by name, in JSON's types; it is kept with each checkpoint.

    Several hosts write and restore a checkpoint together, in a folder that all of them share.
    """

    def __init__(
        self,
        folder: Place,
        *,
        keep: int,
        stays: Callable[[int], bool] = lambda _: False,
        after: int | None = None,
        fingerprint: Mapping[str, Any] | None = None,
    ):
        import orbax.checkpoint as ocp

        refuse_together(folder)
        self.folder = CheckpointFolder(folder)
        self._keep, self._stays, self._after = keep, stays, after
        self._fingerprint = None if fingerprint is None else json.loads(json.dumps(fingerprint))
        self._scratch = scratch_folder() if is_staged(folder) else None
        _quieten()
        # Named, hosts wait for each other at barriers with a time limit.
        together = ocp.options.MultiprocessingOptions(primary_host=0, active_processes=set(range(hosts.count())))
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=together)
        self._orbax = ocp.AsyncCheckpointer(handler, multiprocessing_options=together)
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="lodos-checkpoint")
        self._writing: Future[None] | None = None
        self._at: int | None = None
        """The step that was restored or saved last."""

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint."""
        return max(self.folder.steps(), default=None)

    def save(self, state: TrainerState) -> None:
        """Starts writing the state; the arrays are copied before this returns, the rest is done behind it."""
        step = int(state.step)
        self.wait()
        if step == self._at:
            return
        self._at = step
        try:
            self._begin(step, state)
        except Exception:
            self._give_up()
            raise

    def _begin(self, step: int, state: TrainerState) -> None:
        import orbax.checkpoint as ocp

        written_to = self._written_to(step)
        arrays = _to_tree(state)
        if hosts.count() == 1:
            arrays = _on_host(arrays)  # which Orbax writes as they are, while the device's are used up by the next step
        hosts.wait(f"the checkpoint of step {step} begins")  # of several, the first one has made room for it
        with failures_of(written_to):
            self._orbax.save(_for_orbax(written_to), args=ocp.args.StandardSave(arrays))
        self._writing = self._behind.submit(self._finish, step, written_to, arrays if hosts.count() == 1 else None)

    def wait(self) -> None:
        """Returns when everything is on disk, or on the store.

        Raises:
            OSError: when it could not be written, or was read back differently than written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            try:
                writing.result()
            except Exception:
                self._give_up()
                raise

    @property
    def writing_step(self) -> int | None:
        """The step of the checkpoint that is being written, or that nobody has waited for."""
        return None if self._writing is None else self._at

    def restore(self, state: TrainerState, step: int) -> TrainerState:
        """`state` as it was at the checkpoint of a step, laid out on the devices as `state` is.

        Raises:
            UserError: when the checkpoint is of another run, or of other parameters than `state` trains; it lists what
                differs.
            OSError: when its arrays are read differently than they were written.
        """
        if self._fingerprint is not None:
            check_fingerprint(self.folder, step, self._fingerprint)
        wanted = _to_tree(state)
        self._check(step, wanted)
        restored = self._read(self._read_from(step), wanted)
        self._compare(step, restored)
        self._at = step
        return _from_tree(state, restored)

    def _give_up(self) -> None:
        """Leaves nothing of a checkpoint that could not be written, which takes the room of the next one."""
        if self._at is not None and hosts.is_first():
            self.folder.give_up(self._at)
        self._at = None

    def _written_to(self, step: int) -> Place:
        if self._scratch is not None:
            return Path(self._scratch.name) / str(step)
        if hosts.is_first():
            return self.folder.begin(step)
        return self.folder.writing(step)

    def _read_from(self, step: int) -> Place:
        place = self.folder.place / str(step)
        return local_copy(place) if is_staged(place) else place

    def _finish(self, step: int, written_to: Place, arrays: PyTree | None) -> None:
        """What is left to do behind the training when Orbax has the arrays."""
        meant = None if arrays is None else _described(arrays)
        with failures_of(written_to):
            self._orbax.wait_until_finished()
        if not hosts.is_first():
            return
        found = _described(self._read(written_to, None))
        if meant is not None and (differing := [name for name in meant if found.get(name) != meant[name]]):
            raise OSError(f"{written_to}: read back differently than written: {', '.join(differing)}.")
        facts = {"step": step, "arrays": found, "fingerprint": self._fingerprint}
        if self._scratch is not None:
            self.folder.send(step, Path(self._scratch.name) / str(step), facts)
        else:
            self.folder.commit(step, facts)
        self._remove_old(step)

    def _remove_old(self, step: int) -> None:
        if self._after is not None:
            for old in self.folder.steps():
                if old > self._after and old != step:
                    self.folder.remove(old)
            self._after = None
        self.folder.keep(self._keep, self._stays, until=step)

    def _read(self, place: Place, wanted: PyTree | None) -> PyTree:
        """The arrays of a checkpoint: laid out as `wanted` is, or without it as they are, on this host alone."""
        import orbax.checkpoint as ocp

        if wanted is None:
            return _read_alone(place)
        with failures_of(place):
            return self._orbax.restore(
                _for_orbax(place), args=ocp.args.StandardRestore(jax.tree.map(_abstract, wanted))
            )

    def _check(self, step: int, wanted: PyTree) -> None:
        arrays = self.folder.manifest(step).facts["arrays"]
        found = {name: tuple(array["shape"]) for name, array in arrays.items()}
        expected = {name: tuple(np.shape(leaf)) for name, leaf in named_leaves(wanted).items()}
        problems = [f"{name}: not in the checkpoint." for name in expected.keys() - found.keys()]
        problems += [f"{name}: not trained by this run." for name in found.keys() - expected.keys()]
        problems += [
            f"{name}: {list(found[name])} in the checkpoint, {list(shape)} in this run."
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ]
        _refuse(self.folder, step, problems)

    def _compare(self, step: int, restored: PyTree) -> None:
        """Of several hosts each looks at the arrays that it has whole."""
        written = self.folder.manifest(step).facts["arrays"]
        whole = {name: leaf for name, leaf in named_leaves(restored).items() if leaf.is_fully_addressable}
        for name, found in _described(whole).items():
            if found["dtype"] == written[name]["dtype"] and found != written[name]:
                raise OSError(f"{self.folder.place / str(step)}: {name} is read differently than it was written.")


@functools.cache
def _quieten() -> None:
    """An error is said by whoever waits for the checkpoint. Orbax logs it for each of its threads, and TensorStore's
    threads show one more where they come too late to be heard: from C++, by whichever of Python's two hooks."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    uncaught, unraisable = sys.excepthook, sys.unraisablehook

    def shown(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not _is_late(error):
            uncaught(kind, error, trace)

    sys.excepthook = shown
    sys.unraisablehook = lambda found: None if _is_late(found.exc_value) else unraisable(found)


def _is_late(error: BaseException | None) -> bool:
    return type(error) is RuntimeError and str(error) == "Event loop is closed"


def read_arrays(place: Place) -> dict[str, Any]:
    """The arrays of a checkpoint, as NumPy's: `trainable` and `opt_state` by name, `step` and `training_key`."""
    return _read_alone(local_copy(place) if is_staged(place) else place)


def names_not_finite(place: Place) -> list[str]:
    """The arrays of a checkpoint that hold NaN or infinity."""
    return [
        name
        for name, array in named_leaves(read_arrays(place)).items()
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(np.asarray(array, np.float32)).all()
    ]


def _read_alone(place: Place) -> Any:
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(primary_host=hosts.index(), active_processes={hosts.index()})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with failures_of(place), ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
        path = _for_orbax(place)
        tree = orbax.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return orbax.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def check_fingerprint(folder: CheckpointFolder, step: int, fingerprint: Mapping[str, Any]) -> None:
    """Compares a checkpoint's fingerprint, if it has one, with a run's.

    Raises:
        UserError: when they differ; it lists where.
    """
    meant = json.loads(json.dumps(fingerprint))
    found = folder.manifest(step).facts.get("fingerprint") or {}
    problems = [
        f"{name}: {_shown(found.get(name))} in the checkpoint, {_shown(meant.get(name))} in this run."
        for name in found.keys() | meant.keys()
        if found and found.get(name) != meant.get(name)
    ]
    _refuse(folder, step, problems)


def _refuse(folder: CheckpointFolder, step: int, problems: Sequence[str]) -> None:
    if problems:
        raise UserError(
            f"{folder.place / str(step)}: the checkpoint is of another model, data or configuration:\n  "
            + "\n  ".join(sorted(problems))
            + "\nGive the configuration it was made with to go on with that run, another trainer.id for a new one, "
            "or trainer.load_checkpoint: false to begin this one anew."
        )


def _for_orbax(place: Place) -> Any:
    """The path that Orbax is given: it knows local ones and gs://, to which TensorStore writes by itself."""
    if not is_remote(place):
        return place
    from etils import epath

    return epath.Path(str(place))


def _on_host(arrays: PyTree) -> PyTree:
    """Copies in this host's memory."""
    for leaf in jax.tree.leaves(arrays):
        leaf.copy_to_host_async()
    # On a CPU what NumPy is given is the device's own memory.
    return jax.tree.map(np.array if target().platform == "cpu" else np.asarray, arrays)


def _described(arrays: PyTree) -> dict[str, dict[str, Any]]:
    """Shape, dtype and SHA-256 of each array, by its name."""
    return {
        name: {
            "shape": list(np.shape(leaf)),
            "dtype": str(leaf.dtype),
            "sha256": hashlib.sha256(
                np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view(np.uint8).data
            ).hexdigest(),
        }
        for name, leaf in named_leaves(arrays).items()
    }


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
