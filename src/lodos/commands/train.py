"""`lodos train`: fine-tune a Hugging Face model with LoRA on instruction data.

What can be wrong is looked at before any weight is loaded: the config, the data, the model's files and names.
"""

import dataclasses
import functools
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from lodos import hosts, signals
from lodos.checkpoints import prompting_of, save_merged_hf_checkpoint_callback, save_peft_checkpoint_callback
from lodos.commands.agreement import agree_on_data, agree_on_settings
from lodos.commands.fit import check_step_fits
from lodos.commands.fitting import fitted, is_open
from lodos.commands.loaders import blank_batch, make_loaders
from lodos.commands.lora_model import load_lora_model, lora_structure, lora_trainer
from lodos.commands.run_facts import run_facts
from lodos.commands.run_log import RunLog
from lodos.commands.sole_writer import sole_writer
from lodos.commands.starting_point import initialize_fingerprint, starting_point
from lodos.commands.uploads import checked_uploads
from lodos.config import TrainArgs
from lodos.config_parsing import parse_config
from lodos.data.batching.loader import EvalLoader
from lodos.data.text.chat import read_template
from lodos.errors import NOT_SAVED
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.model_card import RunFacts
from lodos.formats.peft import save_peft_pretrained
from lodos.formats.upload import Uploads
from lodos.models.decoder import LmHeadModel
from lodos.places.looking import is_there
from lodos.places.place import Place
from lodos.places.saving import check_all_writable
from lodos.tracking.external import check_trackers
from lodos.train.axes import check_axes
from lodos.train.checkpoint import check_fingerprint
from lodos.train.checkpoint_folder import CheckpointFolder
from lodos.train.early_stopping import EarlyStopping
from lodos.train.evaluation import Evaluation, EvaluationHook
from lodos.train.failures import explained_failures
from lodos.train.hooks import StepInfo
from lodos.train.kept_exports import remove_old_exports
from lodos.train.state import TrainerState
from lodos.train.trainer import Trainer, newest_step

logger = logging.getLogger(__name__)

Witness = Callable[[Any, TrainerState], Any]
"""From the loader of the batches and the state before the first step to what is iterated in the loader's place."""

_STOPPED_UPLOAD_SECONDS = 15.0
"""How long a run that a signal stopped waits for what is under way to the hub: a preempted machine has some 30 s."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    config: TrainArgs
    """With everything decided that was left open."""
    step: int
    adapter: Place
    """The adapter of the last step."""
    best: Evaluation | None
    """The lowest held-out loss."""
    best_adapter: Place | None
    """Its adapter; None also where a disk has refused it."""
    merged: Place | None
    """None also where a signal stopped the run, which leaves no time for it; `lodos merge` makes it."""
    model: LmHeadModel
    """The adapted model, as trained."""
    unsaved: tuple[str, ...]
    """What a disk has refused when it was to be saved last."""
    stopped_by: int
    """The signal that stopped it early; 0 if none did."""
    skipped: int = 0
    """Steps of the run that were not finite and were skipped (`trainer.on_nonfinite`)."""

    @property
    def interrupted(self) -> bool:
        return self.stopped_by != 0


def main(argv: list[str]) -> int:
    """Trains as the arguments say; 128 and its number if a signal stopped it, and it can be resumed. 74 if what was to
    be saved last was not, since a disk has refused it."""
    config = parse_config(TrainArgs, argv, prog="lodos train", description=TrainArgs.__doc__ or "")
    with explained_failures(), signals.listening():
        signals.stop_on_broken_pipes()
        hosts.join(config.trainer.distributed)
        result = train(config)
        if hosts.is_first():
            _print_outcome(result)
        hosts.finish()
    if result.unsaved:
        return NOT_SAVED
    return 128 + result.stopped_by if result.interrupted else 0


def train(config: TrainArgs, *, witness: Witness | None = None) -> TrainResult:
    """One run, from the files it starts from to the files it leaves.

    Args:
        witness: what hands the batches on, for whoever wants to see them.

    Raises:
        UserError: for what can be mended, another process that writes the same run among it.
    """
    written = _written(config)
    _check_places(config, written)
    agree_on_settings(config, written)
    with sole_writer(config.trainer, written):
        return _train(config, witness)


def _train(config: TrainArgs, witness: Witness | None) -> TrainResult:
    step = newest_step(config.trainer) or 0
    uploads = checked_uploads(config)
    converter = HFCheckpointConverter.from_hf(
        config.model_name_or_path, chat_template=read_template(config.chat_template)
    )
    converter.check_weights()
    lora_key, training_key = jax.random.split(jax.random.key(config.trainer.seed))
    shapes = lora_structure(config, converter)
    check_axes(config.trainer, shapes)
    start = None if step else starting_point(config, converter, shapes)
    # The step is compiled while the rest is made ready, from when its schedule and the shape of its batches are known.
    trainer = None
    if config.packing and config.trainer.num_train_steps is not None:
        config, shapes, trainer = _fitted(config, converter, shapes, config.positions)
        _compile_ahead(trainer, config, shapes, training_key, step, config.positions)
    loaders = make_loaders(config, converter)
    config = loaders.resolve(config)
    fingerprint = {**loaders.fingerprint, **initialize_fingerprint(config)}
    agree_on_data(fingerprint)
    if step:
        check_fingerprint(CheckpointFolder(config.trainer.checkpoint_folder), step, fingerprint)
    if trainer is None:
        config, shapes, trainer = _fitted(config, converter, shapes, max(loaders.lengths))
        loaders = loaders.with_eval_batch_size(config.trainer.eval_batch_size)
        _compile_ahead(trainer, config, shapes, training_key, step, loaders.length_of(step))

    check_step_fits(config, trainer, shapes, training_key)
    with config.trainer.device_mesh:
        model = load_lora_model(config, converter, key=lora_key)
        model = model if start is None else start.model(model)
        state = trainer.initial_state(training_key, model=model, fingerprint=fingerprint)
        state = state if start is None else start.state(state)
        config.save()

        facts = functools.partial(run_facts, config)
        with uploads, RunLog(config, loaders, first_step=int(state.step)) as log:
            # What the log measures of the machine, and the first step, want it to themselves.
            trainer.wait_until_compiled()
            log.start(model, trainer.is_trainable)
            trainer.add_report_hook(log.on_step)
            evaluation = None
            if loaders.held_out is not None:
                evaluation = _evaluation_hook(trainer, config, converter, loaders.held_out, log, facts)
                trainer.add_hook(
                    evaluation, every=config.trainer.steps_per_eval, is_done=log.is_evaluated, saves="the best adapter"
                )
            _add_saving_hooks(trainer, config, converter, facts, uploads)
            if config.hf_save_keep is not None:
                trainer.add_hook(_removing_hook(config, evaluation, uploads), every=config.hf_save_steps)
            state = trainer.train(state, loaders.training if witness is None else witness(loaders.training, state))
            if trainer.interrupted:
                uploads.wait(seconds=_STOPPED_UPLOAD_SECONDS)

    step = int(state.step)
    if not is_there(config.trainer.run_folder / "config.yaml"):  # the folder has vanished meanwhile
        trainer.failed_saves.attempt("the config", step, config.save)
    best = evaluation.best if evaluation else None
    best_adapter = adapter_folder(config) / "best"
    merged = None if (folder := _merged_folder(config)) is None else folder / f"step-{step}"
    return TrainResult(
        config=config,
        step=step,
        adapter=adapter_folder(config) / f"step-{step}",
        best=best,
        best_adapter=best_adapter if best and is_there(best_adapter) else None,
        merged=None if merged is None or not is_there(merged) else merged,
        model=state.model,
        unsaved=(*trainer.failed_saves.last, *([f"{log.unwritten} records of log.jsonl"] if log.unwritten else [])),
        stopped_by=trainer.stopped_by,
        skipped=log.skipped,
    )


def _written(config: TrainArgs) -> dict[str, Place]:
    """The folders that the run writes, by their settings."""
    trainer, merged = config.trainer, _merged_folder(config)
    places = {"trainer.run_dir": trainer.run_folder, "hf_save_path": adapter_folder(config)}
    places |= {"trainer.checkpointer.base_path": trainer.checkpoint_folder}
    return places if merged is None else {**places, "merged_hf_save_path": merged}


def _check_places(config: TrainArgs, written: Mapping[str, Place]) -> None:
    """Refuses, before anything is read, what cannot be written to, and devices that cannot be so arranged."""
    check_all_writable(written)
    check_trackers(config.trainer.trackers)
    with config.trainer.device_mesh:
        pass


def adapter_folder(config: TrainArgs) -> Place:
    """Where the run's adapters go."""
    return config.trainer.save_folder(config.hf_save_path, "peft")


def _merged_folder(config: TrainArgs) -> Place | None:
    if config.merged_hf_save_path is None and not config.save_merged and config.merged_hf_upload is None:
        return None
    return config.trainer.save_folder(config.merged_hf_save_path, "merged")


def _fitted(
    config: TrainArgs, converter: HFCheckpointConverter, shapes: LmHeadModel, length: int
) -> tuple[TrainArgs, LmHeadModel, Trainer]:
    """The config with what is left to the memory decided, the model's shapes and its trainer.

    Args:
        length: positions of the longest row.
    """
    if not is_open(config):
        return config, shapes, lora_trainer(config, shapes)
    # Each config that is made of another would make up a name of its own.
    named = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, id=config.trainer.run_id))
    found = fitted(named, converter, length=length)
    logger.info("Chosen by memory and time: %s.", found.why)
    shapes = lora_structure(found.config, converter)
    # A trainer finds again what it has traced and compiled.
    return found.config, shapes, lora_trainer(found.config, shapes) if found.step is None else found.step.trainer


def _compile_ahead(
    trainer: Trainer, config: TrainArgs, shapes: LmHeadModel, key: PRNGKeyArray, step: int, length: int | None
) -> None:
    """Compiles the step in the background.

    Args:
        step: where the run begins; at its end there is nothing to compile.
        length: positions of the first batch; None if nobody knows, and nothing is compiled yet.
    """
    if length is not None and step < config.trainer.steps:
        trainer.compile_ahead(key, model=shapes, batch=blank_batch(config, length))


def _evaluation_hook(
    trainer: Trainer,
    config: TrainArgs,
    converter: HFCheckpointConverter,
    held_out: EvalLoader,
    log: RunLog,
    facts: Callable[[StepInfo], RunFacts],
) -> EvaluationHook:
    """Evaluates and logs; the adapter of the best step so far is kept beside those of the last steps.

    Where the loss has stopped falling, as `early_stopping` has it, the run ends.
    """
    early = config.stops_early
    stopping = early and EarlyStopping(early, every=config.trainer.steps_per_eval, before=log.evaluations())

    def end_if_over() -> None:
        if stopping is not None and stopping.is_over:
            trainer.end_early()

    def on_evaluation(info: StepInfo, evaluation: Evaluation, is_best: bool) -> None:
        # Logged last: an evaluation that is in the log is done, and is not made up for.
        if is_best:
            save_peft_pretrained(
                info.model,
                config.lora,
                config.model_name_or_path,
                adapter_folder(config) / "best",
                base_folder=converter.folder,
                chat_template=converter.chat_template,
                prompting=prompting_of(info),
                facts=facts(info),
            )
        log.on_evaluation(evaluation)
        if stopping is not None:
            stopping.observe(evaluation)
            end_if_over()

    end_if_over()
    return EvaluationHook(trainer.evaluate, held_out, on_evaluation, best=log.best_so_far())


def _add_saving_hooks(
    trainer: Trainer,
    config: TrainArgs,
    converter: HFCheckpointConverter,
    facts: Callable[[StepInfo], RunFacts],
    uploads: Uploads,
) -> None:
    save_adapter = save_peft_checkpoint_callback(
        adapter_folder(config),
        config.lora,
        config.model_name_or_path,
        config.hf_upload,
        chat_template=converter.chat_template,
        facts=facts,
        uploads=uploads,
    )
    trainer.add_hook(
        save_adapter, every=config.hf_save_steps, is_done=_is_saved(adapter_folder(config)), saves="the adapter"
    )
    if (folder := _merged_folder(config)) is not None:
        save_merged = save_merged_hf_checkpoint_callback(
            folder,
            converter,
            config.merged_hf_upload,
            dtype=config.merged_dtype,
            facts=facts,
            uploads=uploads,
            on_tensor=trainer.stop_if_asked,
        )
        trainer.add_hook(
            save_merged,
            every=config.hf_save_steps,
            is_done=_is_saved(folder),
            when_stopped=False,
            saves="the merged model",
        )


def _removing_hook(
    config: TrainArgs, evaluation: EvaluationHook | None, uploads: Uploads
) -> Callable[[StepInfo], None]:
    """Removes what `hf_save_keep` leaves over, after each saving."""

    def remove(info: StepInfo) -> None:
        best = evaluation.best.step if evaluation and evaluation.best else None
        for folder in (adapter_folder(config), _merged_folder(config)):
            if folder is not None and config.hf_save_keep is not None and hosts.is_first():
                remove_old_exports(folder, config.hf_save_keep, step=info.step, best=best, is_needed=uploads.needs)

    return remove


def _is_saved(folder: Place) -> Callable[[int], bool]:
    """Whether what is saved in this folder after a step is there, as the first host sees it."""

    def look(step: int) -> bool:
        path = folder / f"step-{step}"
        return hosts.from_first(f"whether {path} is there", lambda: str(is_there(path))) == "True"

    return look


def _print_outcome(result: TrainResult) -> None:
    lines = [f"Stopped at step {result.step}." if result.interrupted else f"Finished {result.step} steps."]
    if not result.interrupted and result.step < result.config.trainer.steps:
        lines = [f"Ended after {result.step} steps: the held-out loss has stopped falling (early_stopping)."]
    if result.skipped:
        lines.append(f"Skipped {result.skipped} steps whose loss or gradient was not finite; log.jsonl names them.")
    if is_there(result.adapter):
        lines.append(f"Adapter: {result.adapter}")
    if result.best is not None:
        where = "not saved" if result.best_adapter is None else result.best_adapter
        lines.append(f"Best held-out loss {result.best.loss:.4f} at step {result.best.step}: {where}")
    if result.merged is not None:
        lines.append(f"Merged model: {result.merged}")
    if result.unsaved:
        lines.append(f"Not saved, since the disk refused it: {', '.join(result.unsaved)}. Make room, and run it again.")
    if result.interrupted:
        config_path = result.config.trainer.run_folder / "config.yaml"
        lines.append(f"Resume: lodos train {shlex.quote(str(config_path))}")
    elif is_there(adapter := result.best_adapter or result.adapter):
        lines.append(f"Next: lodos generate --adapter {shlex.quote(str(adapter))} --prompt '...'")
        lines.append(f"      lodos chat --adapter {shlex.quote(str(adapter))}")
    print("\n".join(lines), file=sys.stderr)
