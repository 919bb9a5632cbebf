"""What a training run says: to its log.jsonl, and to whoever is watching."""

import json
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from lodos import hosts
from lodos.commands.loaders import Loaders
from lodos.config import FineTuneArgs
from lodos.config_parsing import encode_config
from lodos.data.batching.loader import TrainLoader
from lodos.lora.transform import lora_parameter_count
from lodos.models.decoder import LmHeadModel
from lodos.models.flops import TrainingFlops, training_flops
from lodos.nn.matrix_peak import matrix_peak
from lodos.places.place import shown_path
from lodos.target import target
from lodos.tracking.console import ConsoleTracker
from lodos.tracking.external import open_trackers
from lodos.tracking.jsonl import JsonlTracker, read_records
from lodos.tracking.tracker import TrackedRun, Trackers
from lodos.train.evaluation import Evaluation
from lodos.train.memory import peak_memory
from lodos.train.reports import StepReport
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
        # Of all steps at once: asked for one step, the device would answer when it is done with the next.
        schedule = jax.vmap(config.optimizer.schedule(self._num_steps))
        self._learning_rates = np.asarray(schedule(np.arange(self._num_steps)))
        self._path = config.trainer.run_folder / "log.jsonl"
        self.skipped = 0
        """Steps of the run that were not finite and were skipped, by the first host's log."""
        self._jsonl: JsonlTracker | None = None
        self._flops: TrainingFlops | None = None
        self._peak = float("nan")

    def __enter__(self) -> "RunLog":
        if not hosts.is_first():  # one speaks for all
            self._tracker = Trackers([])
            return self
        logged_step = max((record["step"] for record in read_records(self._path)), default=0)
        jsonl = self._jsonl = JsonlTracker(self._path, resume_step=self._first_step)
        self.skipped = sum("train/skipped_steps" in record for record in read_records(self._path))
        best = self._best_in_log()
        console = ConsoleTracker(
            self._num_steps, start_step=self._first_step, best=None if best is None else (best.loss, best.step)
        )
        trainer = self._config.trainer
        run = TrackedRun(trainer.run_id, trainer.local_run_folder, self._first_step, logged_step, trainer.run_folder)
        others = open_trackers(trainer.trackers, run)
        self._tracker = Trackers([jsonl, console, *others])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.finish()

    @property
    def unwritten(self) -> int:
        """Records that log.jsonl lacks, when all is over, since the disk refused them."""
        return self._jsonl.unwritten if self._jsonl else 0

    def start(self, model: LmHeadModel, is_trainable: PyTree) -> None:
        """Says what is about to be trained on what, and measures how fast the machine could be."""
        if not hosts.is_first():
            return
        self._flops = training_flops(model, is_trainable)
        # On the CPU every device has all cores.
        here = target()
        devices = here.process_count if here.platform == "cpu" else here.device_count
        self._peak = devices * matrix_peak(self._config.trainer.policy.compute_dtype)
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
                "flops_per_token": self._flops.per_token,
                "flops_per_trained_token": self._flops.per_trained_token,
                "matrix_peak_flops_per_second": self._peak,
                "config": _shown(encode_config(self._config)),
            }
        )

    def on_step(self, report: StepReport) -> None:
        """A trainer's report hook: the numbers of a step."""
        metrics = {
            "train/loss": report.loss,
            "train/grad_norm": report.grad_norm,
            # A step that is skipped does not count for the schedule.
            "train/learning_rate": float(self._learning_rates[report.step - 1 - self.skipped]),
            "train/tokens_per_second": report.tokens / report.seconds,
            "train/trained_tokens_per_second": report.trained_tokens / report.seconds,
            "train/step_seconds": report.seconds,
            "train/data_wait_seconds": report.data_wait_seconds,
            **{f"train/{name}": value for name, value in report.watched.items()},
        }
        if self._flops is not None:
            flops = self._flops.of(report.tokens, report.trained_tokens)
            metrics["train/share_of_peak"] = flops / report.seconds / self._peak
        whose, peak_bytes = peak_memory()
        metrics[f"train/{whose}_peak_bytes"] = peak_bytes
        if isinstance(self._loaders.training, TrainLoader):
            metrics["train/epoch"] = report.step / self._loaders.training.batches_per_epoch
        if not report.finite and self._config.trainer.on_nonfinite == "skip":
            self.skipped += 1
            metrics["train/skipped_steps"] = self.skipped
        self._tracker.log(metrics, step=report.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The held-out loss at a step."""
        self._tracker.log({"eval/loss": evaluation.loss}, step=evaluation.step)

    def best_so_far(self) -> Evaluation | None:
        """The best evaluation before the run was resumed, by the first host's log."""
        best = json.loads(hosts.from_first("the best evaluation", lambda: json.dumps(_numbers(self._best_in_log()))))
        return None if best is None else Evaluation(*best)

    def evaluations(self) -> list[Evaluation]:
        """All evaluations so far, by the first host's log."""
        found = hosts.from_first("the evaluations", lambda: json.dumps([_numbers(one) for one in self._evaluations()]))
        return [Evaluation(step, loss) for step, loss in json.loads(found)]

    def is_evaluated(self, step: int) -> bool:
        """Whether the evaluation of a step is in the first host's log."""

        def look() -> str:
            return str(any(evaluation.step == step for evaluation in self._evaluations()))

        return hosts.from_first(f"whether step {step} is evaluated", look) == "True"

    def _evaluations(self) -> list[Evaluation]:
        records = [record for record in read_records(self._path) if "eval/loss" in record]
        return [Evaluation(record["step"], float(record["eval/loss"])) for record in records]

    def _best_in_log(self) -> Evaluation | None:
        finite = [evaluation for evaluation in self._evaluations() if evaluation.loss == evaluation.loss]
        return min(finite, key=lambda evaluation: evaluation.loss, default=None)


def _numbers(evaluation: Evaluation | None) -> tuple[int, float] | None:
    return None if evaluation is None else (evaluation.step, evaluation.loss)


def _shown(value: Any) -> Any:
    """A config as others may see it: without the passwords and signatures that a URL in it may carry."""
    match value:
        case dict():
            return {key: _shown(item) for key, item in value.items()}
        case list():
            return [_shown(item) for item in value]
        case str():
            return shown_path(value)
    return value
