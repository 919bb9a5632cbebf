"""What `gradient_checkpointing: auto` and `trainer.per_device_parallelism: auto` come to: what fits the memory.

The candidates are dots before full, and all rows of a device at once before a half, a third and so on of them, in the
order of the time that a step would take: operations, with those that are done a second time, and the bytes of the base
that are gathered, twice for each microbatch, at the published speeds of the devices. The first that fits is taken:

    what it is known to hold at least is more than the memory     it is passed over
    what it holds as it is written is less than half of it        it is taken
    otherwise                                                     it is compiled, and taken if it fits

So what fits with dots and all rows at once is computed so. Several hosts go by the least of their memories, and all
else that decides is the same on each.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from lodos import hosts
from lodos.commands.compiled_plan import Plan, TracedStep, compile_step, trace_step
from lodos.commands.step_time import Speeds
from lodos.config import TrainArgs
from lodos.formats.hf import HFCheckpointConverter
from lodos.nn.stacked import GradientCheckpointing
from lodos.plan.sizes import size
from lodos.target import target
from lodos.train.memory import memory_of_device


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A config with nothing of it left to what fits."""

    config: TrainArgs
    why: str
    """What was chosen, from what, in one line."""
    step: TracedStep | None = None
    """Of the config; None where memory is not known."""
    plan: Plan | None = None
    """The same compiled; None where that was not needed."""


def is_open(config: TrainArgs) -> bool:
    """Whether anything of a config is left to what fits."""
    return "auto" in (config.gradient_checkpointing, config.trainer.per_device_parallelism)


def fitted(config: TrainArgs, converter: HFCheckpointConverter, *, length: int, read_text: bool = False) -> Fitted:
    """The config with its checkpointing and its rows at once decided for the devices that are compiled for.

    All hosts call it. Where nothing fits it is what takes least.

    Args:
        length: positions of the longest row that will come.
        read_text: takes what a compiled step moves from its text (`compile_step`).
    """
    memory = memory_of_device()
    memory = None if memory is None else hosts.least("memory of a device", memory)
    if memory is None:
        chosen = next(_candidates(config))
        return Fitted(chosen, f"{_named(chosen)}: nobody says what memory a device has")
    found = _first_that_fits(config, converter, length, memory, read_text)
    hosts.same("what fits the memory", {"gradient_checkpointing and rows at once": _named(found.config)})
    return found


def _first_that_fits(
    config: TrainArgs, converter: HFCheckpointConverter, length: int, memory: int, read_text: bool
) -> Fitted:
    evaluates = config.validation is not None
    passed: list[str] = []
    quickest, *others = _candidates(config)
    fewest = first = trace_step(quickest, converter, length=length)
    for candidate in itertools.chain([quickest], _in_order_of_time(others, first)):
        name = _named(candidate)
        step = first if candidate is quickest else trace_step(candidate, converter, length=length)
        fewest = step if step.least <= fewest.least else fewest
        if step.least > memory:
            passed.append(f"{name}, at least {size(step.least)}")
            continue
        before = f"; quicker, but too large: {'; '.join(passed)}" if passed else ""
        if 2 * step.estimated <= memory:
            return Fitted(candidate, f"{name}: about {size(step.estimated)} of {size(memory)}{before}", step)
        plan = compile_step(step, read_text=read_text, evaluates=evaluates)
        if plan.fits(memory):
            return Fitted(candidate, f"{name}: {size(plan.needed)} of {size(memory)} as compiled{before}", step, plan)
        passed.append(f"{name}, {size(plan.needed)}")
    return Fitted(fewest.config, f"{_named(fewest.config)}, which takes least: nothing fits {size(memory)}", fewest)


def _in_order_of_time(candidates: list[TrainArgs], first: TracedStep) -> list[TrainArgs]:
    """Of two that take the same time the one with more rows at once and less that is computed again, which come first.

    Args:
        first: the step with which the others are compared.
    """
    speeds, gathered = Speeds.of_target(), first.traffic.get("all-gather", 0)
    others = sum(first.traffic.values()) - gathered

    def seconds(candidate: TrainArgs) -> float:
        moved = others + gathered * _microbatches(candidate) // _microbatches(first.config)
        return speeds.seconds(first.flops, candidate.gradient_checkpointing, moved, target().device_count)

    return sorted(candidates, key=seconds)


def _candidates(config: TrainArgs) -> Iterator[TrainArgs]:
    trainer = config.trainer
    share = trainer.train_batch_size // trainer.data_axis_size
    all_rows = [-1, *(rows for rows in range(share - 1, 0, -1) if share % rows == 0)]
    kinds: list[GradientCheckpointing] = ["dots", "full"]
    if config.gradient_checkpointing != "auto":
        kinds = [config.gradient_checkpointing]
    rows_at_once = all_rows if trainer.per_device_parallelism == "auto" else [trainer.per_device_parallelism]
    for kind, rows in itertools.product(kinds, rows_at_once):
        decided = dataclasses.replace(trainer, per_device_parallelism=rows)
        yield dataclasses.replace(config, gradient_checkpointing=kind, trainer=decided)


def _microbatches(config: TrainArgs) -> int:
    return config.trainer.train_batch_size // config.trainer.microbatch_size


def _named(config: TrainArgs) -> str:
    rows = config.trainer.microbatch_size // config.trainer.data_axis_size
    return f"gradient_checkpointing {config.gradient_checkpointing}, {rows} row{'s' * (rows != 1)} at once"
