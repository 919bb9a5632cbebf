"""The training loop.

    trainer = Trainer(config.trainer, optimizer, compute_loss, is_trainable=filter_spec)
    state = trainer.initial_state(key, model=model)        # or the newest checkpoint
    trainer.add_report_hook(fn)                            # the numbers of every step
    trainer.add_hook(fn, every=10)                         # the model after every tenth
    state = trainer.train(state, loader)

Steps are dispatched ahead: the device works on one while the host prepares the next and reads the numbers of the one
before. Only hooks that see the model wait for it, and on a CPU the next step, for the sake of memory.
`trainer.compile_ahead(key, model=shapes, batch=shapes)` compiles the step in the background while data is prepared and
weights are loaded.

It knows nothing of LoRA, files or logs. What is trained is a tree of booleans; whatever else should happen is a hook.
"""

import collections
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from lodos import hosts
from lodos.errors import UserError
from lodos.files import disk_failure
from lodos.jit import named_jit
from lodos.runtime import COMPILER_THREAD
from lodos.target import target
from lodos.train.agreement import Agreement, wish_shapes, wishes
from lodos.train.checkpoint import Checkpointer
from lodos.train.checkpoint_folder import CheckpointFolder
from lodos.train.compilations import Compilations
from lodos.train.config import TrainerConfig
from lodos.train.failed_saves import FailedSaves, note_unsaved
from lodos.train.hooks import CutShort, Hook, Hooks, StepInfo
from lodos.train.interrupt import StopRequest, note_stop, stop_on_signal
from lodos.train.nonfinite import NonFiniteError, Skips, dump_batch
from lodos.train.placement import batch_shapes, placed_batch, placed_state, state_shapes
from lodos.train.reports import ReportHook, Reports, StepReport
from lodos.train.save_schedule import SaveSchedule, newest_kept
from lodos.train.state import TrainerState
from lodos.train.step import ComputeLoss, StepMetrics, Watch, eval_step, train_step
from lodos.tree import combine, parameter_count, partition

logger = logging.getLogger(__name__)

_CHECKPOINT = "the checkpoint"
_WRITING_SECONDS = 6 * 3600
"""How long hosts wait for the first one to have saved what it saves."""


class Trainer:
    """Trains the part of a model that `is_trainable` selects.

    Args:
        optimizer: from Optax; sees the trainable parameters alone.
        compute_loss: `compute_loss(model, batch, key=None)`, the batch's mean loss weighted by its `loss_weight`;
            `key` is an array of keys, one for each row, `[rows]`; None in an evaluation.
        is_trainable: an Equinox filter_spec; True trains every parameter.
        watch: `watch(model)`, numbers of the model after each step by name, for the report hooks.
    """

    def __init__(
        self,
        config: TrainerConfig,
        optimizer: optax.GradientTransformation,
        compute_loss: ComputeLoss,
        is_trainable: PyTree = True,
        *,
        watch: Watch | None = None,
    ):
        self.config = config
        self.optimizer = optimizer
        self.is_trainable = is_trainable
        self.stopped_by = 0
        """The signal for which the last `train` ended early; 0 if it did not."""
        self._compute_loss = compute_loss
        self._watch = watch
        self._step = named_jit(self._train_step, donate_args=(False, False, True, True, False, False, False))
        self._compilations = Compilations(self._train_step.__name__)
        self._traced: Future[jax.stages.Traced] = Future()
        self._compiling: Future[jax.stages.Compiled] | None = None
        self._eval_step = named_jit(self._evaluate_batch)
        self._checkpointer: Checkpointer | None = None
        self._fingerprint: Mapping[str, Any] | None = None
        self._reports = Reports(self._on_nonfinite)
        self._skips = Skips()
        self._given: collections.deque[tuple[int, Any]] = collections.deque(maxlen=2)
        """The steps that were dispatched last, counted from 1, and their batches."""
        self._schedule = SaveSchedule(config.checkpointer.save_interval, config.checkpointer.keep)
        self._hooks = Hooks()
        self._hooks.add(self._save_checkpoint, every=self._saves_at)
        self._stop = StopRequest()
        self._ends_early = False

    @property
    def id(self) -> str:
        """The run's name."""
        return self.config.run_id

    @property
    def interrupted(self) -> bool:
        """Whether the last `train` ended because of a signal."""
        return self.stopped_by != 0

    @property
    def skipped(self) -> int:
        """Steps of the last `train` that were not finite and were skipped."""
        return self._skips.count

    @property
    def failed_saves(self) -> FailedSaves:
        """What a disk has refused, checkpoints among it."""
        return self._hooks.failed

    @property
    def num_train_steps(self) -> int:
        return self.config.steps

    def add_hook(
        self,
        fn: Hook,
        *,
        every: int = 1,
        is_done: Callable[[int], bool] | None = None,
        when_stopped: bool = True,
        saves: str | None = None,
    ) -> None:
        """Calls `fn(info)` after every `every`-th step and once at the end, never twice for the same step.

        The device waits meanwhile. Every report up to this step has been delivered; what was not finite was skipped.

        Args:
            is_done: whether an earlier process has called it for a step, the same on all hosts. A resumed run calls it
                before its first step if not; without it nothing is made up for.
            when_stopped: whether it is called also when a signal has stopped the run, which may have seconds to end.
            saves: what it saves, if the run is to go on where a disk refuses it; that is said, and counted in
                `failed_saves`. On several hosts it ends the run.
        """
        self._hooks.add(fn, every=every, is_done=is_done, when_stopped=when_stopped, saves=saves)

    def stop_if_asked(self) -> None:
        """For a hook that takes its time: gives it up where a signal has asked the run to stop.

        Several hosts give up together or not at all: there it does nothing.

        Raises:
            CutShort: which the hook need not catch.
        """
        if hosts.count() == 1:
            self._cut_short_if_stopping()

    def end_early(self) -> None:
        """Has `train` end after the steps that are done, as if there were no more to do. All hosts call it."""
        self._ends_early = True

    def add_report_hook(self, fn: ReportHook) -> None:
        """Calls `fn(report)` with the numbers of every step, in order, when they have come from the device.

        That is while the next step is running, so a report hook costs the device no time.
        """
        self._reports.add_hook(fn)

    def initial_state(
        self, key: PRNGKeyArray, *, model: PyTree, fingerprint: Mapping[str, Any] | None = None
    ) -> TrainerState:
        """The state before the first step, or that of the run's newest checkpoint.

        Trainable parameters are in the policy's parameter dtype from here on, frozen ones in its compute dtype.

        Args:
            fingerprint: what decides the numbers of the run beside its parameters (its settings, its data), by name, in
                JSON's types. It is kept with each checkpoint, and one that has another is not resumed from.

        Raises:
            UserError: when nothing is trainable, a checkpoint is demanded but not there, or it does not fit.
        """
        if parameter_count(partition(model, self.is_trainable)[0]) == 0:
            raise UserError("is_trainable: selects no parameter of the model, so there is nothing to train.")
        self._fingerprint = fingerprint
        with self.config.device_mesh:
            state = placed_state(key, model, self.is_trainable, self.optimizer, self.config)
            return self._resumed(state)

    def compile_ahead(self, key: PRNGKeyArray, *, model: PyTree, batch: PyTree) -> None:
        """Begins to compile the step in the background, once; `train` waits for its end.

        JAX's settings for a thread, such as `jax.default_matmul_precision(...)`, do not reach it.

        Args:
            key, model: as for `initial_state`; shapes will do, `jax.ShapeDtypeStruct` in place of arrays.
            batch: as the loader yields them, with several hosts this host's share; shapes will do.
        """
        assert self._compiling is None, "the step is being compiled already"

        def compile_step() -> jax.stages.Compiled:
            try:
                shapes = batch_shapes(batch, self.config)
                state = state_shapes(key, model, self.is_trainable, self.optimizer, self.config)
                self._traced.set_result(self.trace(state, shapes))
            except BaseException as error:
                self._traced.set_exception(error)
                raise
            # What is compiled outside the mesh is not found inside.
            with self.config.device_mesh, self._compilations.watching(1, shapes):
                return self._traced.result().lower().compile()

        # While they are imported they change what `import` does in every thread (etils' lazy_imports), and JAX imports
        # some of its own when it compiles.
        import grain  # noqa: F401
        import orbax.checkpoint  # noqa: F401

        # No daemon, which would go on compiling in a process that is being taken apart.
        threads = ThreadPoolExecutor(1, thread_name_prefix=COMPILER_THREAD)
        self._compiling = threads.submit(compile_step)
        threads.shutdown(wait=False)

    def trace(self, state: TrainerState, batch: PyTree) -> jax.stages.Traced:
        """The step of a placed batch, to be lowered and compiled; shapes with their layouts will do."""
        with self.config.device_mesh as mesh:
            return self._step.trace(*_step_arguments(state, batch, wish_shapes(mesh)))

    def trace_evaluation(self, model: PyTree, batch: PyTree) -> jax.stages.Traced:
        """The same of the evaluation of a placed batch."""
        with self.config.device_mesh as mesh:
            return self._eval_step.trace(model, batch, wish_shapes(mesh))

    @property
    def traced_ahead(self) -> jax.stages.Traced | None:
        """The step that `compile_ahead` compiles, as soon as it is traced; None without one."""
        return None if self._compiling is None else self._traced.result()

    @property
    def compiled_ahead(self) -> jax.stages.Compiled | None:
        """The same compiled; None as long as it is not, and where it cannot be."""
        compiling = self._compiling
        is_there = compiling is not None and compiling.done() and compiling.exception() is None
        return compiling.result() if compiling is not None and is_there else None

    def wait_until_compiled(self) -> None:
        """Returns when the step that `compile_ahead` began to compile is there, and raises what went wrong with it."""
        if self._compiling is not None:
            self._compiling.result()

    def train(self, state: TrainerState, loader: Iterable[Any]) -> TrainerState:
        """Steps until `num_train_steps` or a signal, then runs every hook that the last step has not run.

        Several hosts stop at the same step, whichever of them the signal came to.

        Args:
            loader: batches. One with `iter_from_step(step)` is entered at the state's step, which is how a resumed
                run sees the batches it would have seen; any other is iterated from its start.

        Raises:
            NonFiniteError: when a loss or gradient is not finite, as `on_nonfinite` has it; the state before that step
                is saved, and its batch is written into the run's folder.
        """
        self._skips = Skips()
        step = int(state.step)
        if step < self.num_train_steps:
            self.wait_until_compiled()
        # A host that waits within a collective may be told that time is up, by Gloo after half a minute.
        hosts.wait(f"the steps after {step}")
        with self.config.device_mesh, self._stopped_by_signals(), self._checkpoints_finished():
            batches = _from_step(loader, step)
            self._compilations.declare(getattr(loader, "lengths", None))
            self._reports.start()
            is_whole = True
            if step:
                self._hooks.note_done(step)
            if 0 < step < self.num_train_steps and self._hooks.undone(step):
                is_whole = self._hooks.make_up(StepInfo(state, step, None, loader))
                hosts.wait(f"what was left to do after step {step}", seconds=_WRITING_SECONDS)
                self._reports.restart_clock()
            try:
                while step < self.num_train_steps and not self._stopping and not self._ends_early:
                    try:
                        batch, data_wait_seconds = self._next_batch(batches, step)
                        self._wait_for_memory(state)
                        if self._stopping:  # meanwhile
                            break
                        with self._compilations.watching(step + 1, batch):
                            state, metrics = self.train_step(state, batch)
                    except Exception:
                        self._reports.flush()
                        raise
                    step += 1
                    self._given.append((step, batch))
                    self._reports.dispatched(step, metrics, data_wait_seconds)
                    if self._hooks.due(step):
                        is_whole = self._run_hooks(state, step, loader)
                stopped = bool(self._stopping) and step < self.num_train_steps
                is_whole = self._run_hooks(state, step, loader, end=True, stopped=stopped) and is_whole
            except NonFiniteError as error:
                raise self._given_up(error, state, loader) from None
            self.stopped_by = self._stopping if step < self.num_train_steps or not is_whole else 0
            note_stop(self.stopped_by)
        note_unsaved(self.failed_saves.last)
        return state

    def train_step(self, state: TrainerState, batch: PyTree) -> tuple[TrainerState, StepMetrics]:
        """One optimizer step on one batch. The trainable arrays and optimizer state of `state` are used up.

        It returns when the step is dispatched; the numbers are arrays that come later. On a CPU it is dispatched
        when the one before is done.
        """
        self._wait_for_memory(state)
        with self.config.device_mesh as mesh:
            wished = wishes(mesh, signum=self._stop.signum, saves=self._wants_save)
            arguments = _step_arguments(state, placed_batch(batch, self.config), wished)
            trainable, opt_state, step, metrics = self._step(*arguments)
            model = combine(trainable, state.frozen)
            return TrainerState(step, model, opt_state, state.training_key, state.is_trainable), metrics

    def evaluate(self, model: PyTree, batches: Iterable[Any]) -> float:
        """The mean loss over all batches, each token with its weight, in nats a token; NaN without any weight.

        Raises:
            CutShort: within `train`, when a signal asks to stop; on several hosts after the same batch. A hook need
                not catch it.
        """
        pending: list[tuple[Array, Array, Array | None]] = []
        total = weight = 0.0

        def receive() -> None:
            nonlocal total, weight
            batch_total, batch_weight, agreed = jax.device_get(pending.pop(0))
            total, weight = total + float(batch_total), weight + float(batch_weight)
            if agreed is not None:
                self._reports.agreement.heard_between_steps(agreed)

        # One batch late, as in training.
        late = 1 if _dispatches_ahead() else 0
        with self.config.device_mesh as mesh:
            for batch in batches:
                self._cut_short_if_stopping()
                wished = wishes(mesh, signum=self._stop.signum, saves=False)
                pending.append(self._eval_step(model, placed_batch(batch, self.config), wished))
                if len(pending) > late:
                    receive()
            while pending:
                receive()
        return total / weight if weight else float("nan")

    def _cut_short_if_stopping(self) -> None:
        if self._stopping:
            raise CutShort

    @property
    def _stopping(self) -> int:
        """The signal for which to stop now: this host's own or, of several, the one they have all heard of."""
        return self._stop.signum if hosts.count() == 1 else self._reports.agreement.signum

    @property
    def _wants_save(self) -> bool:
        """Whether this host has a reason for a checkpoint beside the number of the step."""
        return self._stop.saves or (hosts.is_first() and self._schedule.is_time())

    def _saves_at(self, step: int) -> bool:
        wanted = self._wants_save if hosts.count() == 1 else self._reports.agreement.saves
        return self._schedule.is_due(step, is_time=wanted)

    def _wait_for_memory(self, state: TrainerState) -> None:
        if not _dispatches_ahead():
            jax.block_until_ready(state.step)

    def _next_batch(self, batches: Iterator[Any], step: int) -> tuple[Any, float]:
        """The batch that follows `step` steps, and the seconds that the device had nothing to do for lack of it."""
        asked = time.perf_counter()
        batch = next(batches, None)
        seconds = 0.0 if self._reports.device_is_busy else time.perf_counter() - asked
        if batch is None:
            raise UserError(f"The loader ended after {step} of {self.num_train_steps} steps.")
        return batch, seconds

    def _run_hooks(
        self, state: TrainerState, step: int, loader: Iterable[Any], *, end: bool = False, stopped: bool = False
    ) -> bool:
        """Whether all came to their end."""
        # Refuses a step that was not finite, so that nothing of it is saved.
        self._reports.flush()
        are_whole = self._hooks.run(StepInfo(state, step, self._reports.latest, loader), end=end, stopped=stopped)
        # The first host may have written a large model meanwhile.
        hosts.wait(f"what follows step {step}{' at the end' if end else ''}", seconds=_WRITING_SECONDS)
        self._reports.restart_clock()
        return are_whole

    def _on_nonfinite(self, report: StepReport) -> None:
        said = f"Step {report.step}: the loss is {report.loss} and the gradient norm {report.grad_norm}."
        if self.config.on_nonfinite == "skip":
            self._skips.add(report.step, said)
        else:
            raise NonFiniteError(report.step, said)

    def _given_up(self, error: NonFiniteError, state: TrainerState, loader: Iterable[Any]) -> NonFiniteError:
        """The error, with what it has left behind it: a checkpoint, and the batch of the step."""
        if self.config.on_nonfinite == "stop":
            state = eqx.tree_at(lambda state: state.step, state, ~state.step)
        said = [str(error), "Nothing of it was taken over."]
        if int(state.step):
            said.append(self._saved_now(state))
        origins = getattr(loader, "origins", None)
        for given, batch in self._given:
            if given == error.step:
                known = origins and origins(given - 1)
                said.append(dump_batch(self.config.run_folder / "nonfinite", given, batch, known))
        said.append(
            "Look at these rows. To go on past such steps, write trainer.on_nonfinite: skip and start the run again; "
            "if they come again and again, a lower optimizer.learning_rate or a longer warmup, in a new run."
        )
        return NonFiniteError(error.step, " ".join(said))

    def _saved_now(self, state: TrainerState) -> str:
        """Whether the state is on the disk now, in a sentence."""
        self._finish_checkpoint()
        step, checkpointer = int(state.step), self._open_checkpointer()
        try:
            checkpointer.save(state)
            checkpointer.wait()
        except Exception as error:
            refused = disk_failure(error)
            if refused is None or hosts.count() > 1:
                raise
            return f"The state after step {step} could not be saved: {refused.strerror}."
        return f"The state after step {step} is saved."

    def _train_step(
        self,
        frozen: PyTree,
        batch: PyTree,
        trainable: PyTree,
        opt_state: optax.OptState,
        step: Int[Array, ""],
        training_key: PRNGKeyArray,
        wished: Int[Array, "devices 2"] | None,
    ) -> tuple[PyTree, optax.OptState, Int[Array, ""], StepMetrics]:
        # The host learns of a step that was not finite when the next one is on its way. Where the run is to stop there,
        # the step's number is turned around (~step is below 0), and with such a one nothing changes any more.
        stops = self.config.on_nonfinite == "stop"
        halted = step < 0 if stops else None
        trainable, opt_state, metrics = train_step(
            frozen,
            batch,
            trainable,
            opt_state,
            jax.random.fold_in(training_key, step),
            compute_loss=self._compute_loss,
            optimizer=self.optimizer,
            policy=self.config.policy,
            num_microbatches=self.config.train_batch_size // self.config.microbatch_size,
            compute_mapping=self.config.compute_axis_mapping,
            parameter_mapping=self.config.parameter_axis_mapping,
            watch=self._watch,
            halted=halted,
        )
        if wished is not None:
            metrics = dataclasses.replace(metrics, agreed=jnp.max(wished, axis=0))
        following = step + 1
        if halted is not None:
            following = jnp.where(halted, step, jnp.where(metrics.finite, following, ~step))
        return trainable, opt_state, following, metrics

    def _evaluate_batch(
        self, model: PyTree, batch: PyTree, wished: Int[Array, "devices 2"] | None
    ) -> tuple[Array, Array, Int[Array, "2"] | None]:
        total, weight = eval_step(
            model,
            batch,
            compute_loss=self._compute_loss,
            policy=self.config.policy,
            compute_mapping=self.config.compute_axis_mapping,
            parameter_mapping=self.config.parameter_axis_mapping,
        )
        return total, weight, None if wished is None else jnp.max(wished, axis=0)

    def _open_checkpointer(self) -> Checkpointer:
        if self._checkpointer is None:
            self._checkpointer = Checkpointer(
                self.config.checkpoint_folder,
                keep=newest_kept(self.config.checkpointer.keep),
                stays=self._schedule.stays,
                after=self._anew_after,
                fingerprint=self._fingerprint,
            )
        return self._checkpointer

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        try:
            with stop_on_signal() as self._stop:
                yield
        finally:
            # What is evaluated afterwards is not cut short.
            self._stop, self._reports.agreement = StopRequest(), Agreement()

    @contextmanager
    def _checkpoints_finished(self) -> Iterator[None]:
        """Leaves when every checkpoint is on disk, also after an error."""
        try:
            yield
        finally:
            self._finish_checkpoint()

    def _save_checkpoint(self, info: StepInfo) -> None:
        if self._stop.saves:
            logger.info("SIGUSR1: a checkpoint of step %d is saved.", info.step)
        self._finish_checkpoint()
        save = functools.partial(self._open_checkpointer().save, info.state)
        if hosts.count() > 1:
            save()
        else:
            self.failed_saves.attempt(_CHECKPOINT, info.step, save)
        self._schedule.saved()
        self._stop.saves = False
        self._reports.agreement.saves = False

    def _finish_checkpoint(self) -> None:
        """Returns when the checkpoint that is being written is on the disk, or was refused."""
        if self._checkpointer is None:
            return
        if hosts.count() > 1:
            self._checkpointer.wait()
        elif (step := self._checkpointer.writing_step) is not None:
            self.failed_saves.attempt(_CHECKPOINT, step, self._checkpointer.wait)

    def _resumed(self, state: TrainerState) -> TrainerState:
        step = newest_step(self.config)
        return state if step is None else self._open_checkpointer().restore(state, step)

    @property
    def _anew_after(self) -> int | None:
        """The step from which what an earlier process has done is done anew; None where it goes on from its end."""
        return 0 if self.config.load_checkpoint is False else self.config.load_checkpoint_step


def newest_step(config: TrainerConfig) -> int | None:
    """The step of the checkpoint that the run would go on from, as the first host sees it; None where it begins.

    All of the checkpoint is read. One that is not as it was written is set aside, and the one before it is looked at.

    Raises:
        UserError: when a checkpoint is demanded that is not there, or there are some and none is whole.
    """
    folder = CheckpointFolder(config.checkpoint_folder)

    def look() -> str:
        if config.load_checkpoint_step is not None:
            return str(folder.chosen_whole(config.load_checkpoint_step))
        found = folder.newest_whole() if config.load_checkpoint is not False else None
        return "" if found is None else str(found)

    step = hosts.from_first("the newest checkpoint", look)
    if config.load_checkpoint and not step:
        raise UserError(f"load_checkpoint: true, but there is no checkpoint in {config.checkpoint_folder}.")
    return int(step) if step else None


def has_begun(config: TrainerConfig) -> bool:
    """Whether the run has a checkpoint to go on from, as the first host sees it; nobody looks into it."""
    folder = CheckpointFolder(config.checkpoint_folder)
    look = lambda: str(config.load_checkpoint is not False and bool(folder.steps()))  # noqa: E731
    return hosts.from_first("whether there is a checkpoint", look) == "True"


def _step_arguments(state: TrainerState, batch: PyTree, wished: Any) -> tuple[Any, ...]:
    """Those of `Trainer._train_step`."""
    return state.frozen, batch, state.trainable, state.opt_state, state.step, state.training_key, wished


def _dispatches_ahead() -> bool:
    # On a CPU a program has its temporary memory from when it is dispatched, not from when it runs: a step ahead would
    # double it, to save the milliseconds in which a step is dispatched.
    return target().platform != "cpu"


def _from_step(loader: Iterable[Any], step: int) -> Iterator[Any]:
    iter_from_step = getattr(loader, "iter_from_step", None)
    return iter(loader) if iter_from_step is None else iter(iter_from_step(step))
