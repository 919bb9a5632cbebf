"""What a training run says: to its log.jsonl, and to whoever is watching."""

from types import TracebackType

import numpy as np

from lodos.commands.loaders import Loaders
from lodos.config import FineTuneArgs
from lodos.data.batching.loader import TrainLoader
from lodos.lora.transform import lora_parameter_count
from lodos.models.decoder import LmHeadModel
from lodos.tracking.console import ConsoleTracker
from lodos.tracking.jsonl import JsonlTracker, read_records
from lodos.tracking.tracker import Trackers
from lodos.train.evaluation import Evaluation
from lodos.train.hooks import StepInfo
from lodos.tree import parameter_count


class RunLog:
    """Turns what a trainer's hooks are told into numbers for the trackers; a context manager.

    Args:
        config: with the run's name and number of steps decided.
        first_step: the steps done before; what an earlier attempt logged beyond it is removed.
    """

    def __init__(self, config: FineTuneArgs, loaders: Loaders, *, first_step: int):
        assert config.trainer.num_train_steps is not None
        self._config = config
        self._loaders = loaders
        self._first_step = first_step
        self._num_steps = config.trainer.num_train_steps
        self._schedule = config.optimizer.schedule(self._num_steps)
        self._path = config.trainer.run_folder / "log.jsonl"

    def __enter__(self) -> "RunLog":
        jsonl = JsonlTracker(self._path, resume_step=self._first_step)
        self._tracker = Trackers([jsonl, ConsoleTracker(self._num_steps, start_step=self._first_step)])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.finish()

    def start(self, model: LmHeadModel) -> None:
        """Says what is about to be trained on what."""
        # A model without adapters is trained whole.
        every = parameter_count(model)
        trainable = lora_parameter_count(model) or every
        training, held_out = self._loaders.training, self._loaders.held_out
        of_known_rows = {}
        if isinstance(training, TrainLoader):
            of_known_rows = {"training_rows": len(training.examples), "batch_efficiency": training.efficiency}
        self._tracker.log_summary(
            {
                "run": self._config.trainer.run_id,
                "parameters": every - trainable,
                "trainable_parameters": trainable,
                **of_known_rows,
                "held_out_rows": 0 if held_out is None else len(held_out.examples),
                "steps": self._num_steps,
                "resumed_from_step": self._first_step,
            }
        )

    def on_step(self, info: StepInfo) -> None:
        """A trainer's hook: the numbers of a step."""
        if info.metrics is None:
            return
        metrics = {
            "train/loss": info.loss,
            "train/grad_norm": float(info.metrics.grad_norm),
            "train/learning_rate": float(np.asarray(self._schedule(info.step - 1))),
            "train/tokens_per_second": float(info.metrics.tokens) / info.seconds,
            "train/trained_tokens_per_second": float(info.metrics.trained_tokens) / info.seconds,
            "train/step_seconds": info.seconds,
            "train/data_wait_seconds": info.data_wait_seconds,
        }
        if isinstance(self._loaders.training, TrainLoader):
            metrics["train/epoch"] = info.step / self._loaders.training.batches_per_epoch
        self._tracker.log(metrics, step=info.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The held-out loss at a step."""
        self._tracker.log({"eval/loss": evaluation.loss}, step=evaluation.step)

    def best_so_far(self) -> Evaluation | None:
        """The best evaluation before the run was resumed."""
        records = [record for record in read_records(self._path) if "eval/loss" in record]
        evaluations = [Evaluation(record["step"], float(record["eval/loss"])) for record in records]
        finite = [evaluation for evaluation in evaluations if evaluation.loss == evaluation.loss]
        return min(finite, key=lambda evaluation: evaluation.loss, default=None)
