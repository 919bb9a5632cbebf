"""From the settings of a run to its batches, with the gate that stops a run which would train wrongly."""

import dataclasses
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lodos import hosts
from lodos.commands.fingerprint import run_fingerprint
from lodos.commands.template_date import with_template_date
from lodos.config import DEFAULT_EPOCHS, FineTuneArgs
from lodos.data.batching.batches import make_batch
from lodos.data.batching.loader import EvalLoader, TrainLoader
from lodos.data.batching.stream import ExampleStream, StreamLoader
from lodos.data.first_rows import prepare_first_rows
from lodos.data.limits import ModelLimits
from lodos.data.mixture import Selection
from lodos.data.prepare import Prepared, check, prepare, prepare_held_out
from lodos.data.tokens.cache import data_cache_folder
from lodos.data.tokens.tokenize import padding_token_id
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.infer.generate import longest_sequence
from lodos.prompting.description import Prompting
from lodos.train.mesh import WHOLE_BATCH, BatchShare
from lodos.types import LmExample

logger = logging.getLogger(__name__)

Args = TypeVar("Args", bound=FineTuneArgs)

GATED_ROWS = 1000
"""Rows of each source that the gate sees of streamed data."""

NOTABLE_FILLER = 0.25
"""Packing is suggested when more than this share of the positions is filler."""


@dataclasses.dataclass(frozen=True)
class Loaders:
    """The batches of a run."""

    training: TrainLoader | StreamLoader
    held_out: EvalLoader | None
    prompting: Prompting
    """How the model has to be asked afterwards; where rows are streamed, by the first of them."""
    fingerprint: Mapping[str, Any]
    """What decides the numbers of the run, for `Trainer.initial_state`."""
    template_date: str | None = None
    """The day that the chat template wrote as today's; None where it writes none."""

    def length_of(self, k: int) -> int | None:
        """Positions of batch k; None where it takes reading rows to know."""
        if len(self.training.lengths) == 1:
            return self.training.lengths[0]
        return self.training.length_of(k) if isinstance(self.training, TrainLoader) else None

    @property
    def lengths(self) -> Sequence[int]:
        """The lengths that batches have."""
        return [*self.training.lengths, *(self.held_out.lengths if self.held_out else ())]

    def with_eval_batch_size(self, batch_size: int) -> "Loaders":
        """The same with so many rows in a batch of the held-out ones, over all devices."""
        if self.held_out is None or self.held_out.batch_size == batch_size:
            return self
        return dataclasses.replace(self, held_out=self.held_out.with_batch_size(batch_size))

    def resolve(self, config: Args) -> Args:
        """The config with the run's name, its number of steps and its day decided, as it is written into the run
        folder."""
        trainer = config.trainer
        steps = trainer.num_train_steps
        if steps is None:
            assert isinstance(self.training, TrainLoader)  # a stream comes with a number of steps
            steps = self.training.steps_for_epochs(trainer.num_epochs or DEFAULT_EPOCHS)
        trainer = dataclasses.replace(trainer, id=trainer.run_id, num_train_steps=steps, num_epochs=None)
        return dataclasses.replace(config, trainer=trainer, template_date=self.template_date or config.template_date)


def make_loaders(config: FineTuneArgs, converter: HFCheckpointConverter) -> Loaders:
    """Prepares the data of a run.

    Raises:
        UserError: for what is wrong with the data, and when it would train wrongly.
    """
    config = with_template_date(config, converter)
    if config.streaming:
        return _streamed(config, converter)
    folder = data_cache_folder(config.data_cache_dir)
    prepared = hosts.first_then_others("the data", lambda: _prepared(config, converter), folder=folder)
    limits = model_limits(converter)
    beyond = limits.problems([prepared.training, prepared.held_out], converter.tokenizer)
    if problems := [*check(prepared.report, config), *beyond]:
        raise UserError("\n".join(problems))
    if note := unreachable_length(config, limits):
        logger.info("%s", note)
    training = training_loader(config, converter, prepared.training, share=config.trainer.batch_share)
    config.trainer.check_lengths(training.lengths)
    # Of less than some batches most filler is rows that are not there, which packing does not bring.
    is_worth_it = len(prepared.training) >= 4 * config.trainer.train_batch_size
    if training.efficiency < 1 - NOTABLE_FILLER and not config.packing and is_worth_it:
        logger.info(
            "%.0f %% of the batches is filler. packing: true fills them; lower train_batch_size then.",
            100 * (1 - training.efficiency),
        )
    held_out = _eval_loader(config, converter, prepared.held_out) if len(prepared.held_out) else None
    config.trainer.check_lengths(held_out.lengths if held_out else ())
    fingerprint = run_fingerprint(config, converter, prepared.training)
    return Loaders(training, held_out, _said(prepared.training.prompting), fingerprint, config.template_date)


def _prepared(config: FineTuneArgs, converter: HFCheckpointConverter) -> Prepared:
    return prepare(config, converter.tokenizer, seed=config.trainer.seed, progress=hosts.is_first())


def model_limits(converter: HFCheckpointConverter) -> ModelLimits:
    """How many tokens and positions the model has."""
    return ModelLimits(converter.vocab_size, longest_sequence(converter.config))


def unreachable_length(config: FineTuneArgs, limits: ModelLimits) -> str | None:
    """What to say of a `max_tune_length` that was given and that the model cannot take; None of others."""
    if config.max_tune_length is None or config.max_tune_length <= limits.positions + 1:
        return None
    return (
        f"max_tune_length {config.max_tune_length} is more than the model's {limits.positions} positions; no row is "
        "that long."
    )


def training_loader(
    config: FineTuneArgs,
    converter: HFCheckpointConverter,
    examples: Selection,
    *,
    share: BatchShare = WHOLE_BATCH,
) -> TrainLoader:
    """The batches of an epoch's examples, or the share of them that one of several hosts makes."""
    return TrainLoader(
        examples,
        batch_size=config.trainer.train_batch_size,
        pad_id=_pad_id(converter),
        seed=config.trainer.seed,
        seq_len=_packed_length(config),
        host_index=share.index,
        host_count=share.count,
    )


def blank_batch(config: FineTuneArgs, length: int, *, rows: int | None = None) -> LmExample:
    """Filler in the shape of this host's batches, for which the step can be compiled before there is data.

    Args:
        rows: of this host; by default its share of a training batch.
    """
    rows = config.trainer.train_batch_size // config.trainer.batch_share.count if rows is None else rows
    return make_batch([], pad_id=0, length=length, batch_size=rows)


def _streamed(config: FineTuneArgs, converter: HFCheckpointConverter) -> Loaders:
    if config.trainer.num_train_steps is None:
        raise UserError(
            "num_train_steps: not given, and streamed data has no known number of rows to count epochs by. Give "
            "trainer.num_train_steps."
        )
    seed = config.trainer.seed
    limits = model_limits(converter)
    with tempfile.TemporaryDirectory(prefix="lodos-first-rows-") as folder:
        first = prepare_first_rows(config, converter.tokenizer, count=GATED_ROWS, folder=Path(folder))
        beyond = limits.problems([first.training, first.held_out], converter.tokenizer)
        if problems := [*check(first.report, config), *beyond]:
            raise UserError("\n".join([f"Of the first {first.report.read} rows:", *problems]))
        for note in (first.report.unread_line(), unreachable_length(config, limits)):
            if note:
                logger.info("%s", note)
        prompting = _said(first.training.prompting)
    logger.info(
        "Streaming: rows are shuffled among %d at a time, nothing is cached, and a resumed run reads again what it "
        "has seen.",
        config.shuffle_buffer,
    )
    training = StreamLoader(
        ExampleStream(config, converter.tokenizer, seed=seed, limits=limits),
        batch_size=config.trainer.train_batch_size,
        pad_id=_pad_id(converter),
        seed=seed,
        max_length=config.longest_row,
        seq_len=_packed_length(config),
        host_index=config.trainer.batch_share.index,
        host_count=config.trainer.batch_share.count,
        prompting=prompting,
    )
    config.trainer.check_lengths(training.lengths)
    folder = data_cache_folder(config.data_cache_dir)
    held_out, _ = hosts.first_then_others(
        "the held-out data", lambda: prepare_held_out(config, converter.tokenizer), folder=folder
    )
    held_out_loader = _eval_loader(config, converter, held_out) if len(held_out) else None
    config.trainer.check_lengths(held_out_loader.lengths if held_out_loader else ())
    fingerprint = run_fingerprint(config, converter, None)
    return Loaders(training, held_out_loader, prompting, fingerprint, config.template_date)


def _eval_loader(config: FineTuneArgs, converter: HFCheckpointConverter, held_out: Selection) -> EvalLoader:
    return EvalLoader(
        held_out,
        batch_size=config.trainer.eval_batch_size,
        pad_id=_pad_id(converter),
        seq_len=_packed_length(config),
        host_index=config.trainer.batch_share.index,
        host_count=config.trainer.batch_share.count,
    )


def _said(prompting: Prompting | None) -> Prompting:
    """What was found out while the data was prepared; of several formats it is said which the model is asked in."""
    assert prompting is not None
    if len(prompting.formats) > 1:
        logger.info(
            "Rows of several formats are trained (%s). Afterwards the model is asked in that of the most, %s, unless "
            "--chat or --prompts say otherwise.",
            ", ".join(prompting.formats),
            prompting.format,
        )
    return prompting


def _packed_length(config: FineTuneArgs) -> int | None:
    return config.positions if config.packing else None


def _pad_id(converter: HFCheckpointConverter) -> int:
    return padding_token_id(converter.tokenizer, converter.vocab_size)
