"""`lodos plan`: whether a config's step fits the devices, what it moves between them and how long it takes.

The step is compiled by the compiler of the devices, from shapes: no weights are read, and no data. With `--target` the
devices need not be there.
"""

import dataclasses
import os
import signal
import subprocess
import sys
from typing import cast

import yaml
from rich.console import Console
from rich.table import Table

from lodos.commands.compiled_plan import Plan, TracedStep, compile_step, longest, trace_step, with_evaluation
from lodos.commands.fitting import fitted, is_open
from lodos.commands.loaders import make_loaders
from lodos.commands.plan_remedies import changed_settings, cheapest_that_fits, most_rows_at_once
from lodos.commands.step_time import HOST_LINK, UTILIZATION, Speeds
from lodos.config import DEFAULT_EPOCHS, TrainArgs
from lodos.config_parsing import parse_config
from lodos.data.reading.sources import parse_sources
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.nn.matrix_peak import matrix_peak
from lodos.places.place import is_url
from lodos.plan.accelerators import Accelerators, accelerators_of
from lodos.plan.described import ENVIRONMENT, check_compiler, described_target
from lodos.plan.footprint import Footprint
from lodos.plan.sizes import size
from lodos.target import compiling_for, target
from lodos.train.memory import memory_of_device

DESCRIPTION = """\
Compile a config's train step and evaluation step, without weights and data, and say what they take: memory of each
device, bytes moved between devices, time of a step. With --target for devices that are not there. Where it does not
fit, what to change is compiled too. The exit status is 1 where it does not fit.
Example: lodos plan my.yaml --target v3-32"""

_DESCRIBING = "LODOS_PLAN_DESCRIBES"
"""Set in the process that compiles for a target."""

_NOT_AUTOTUNED = (
    "Not autotuned: without a card XLA cannot measure its kernels, and cuDNN does not say what it takes beside them."
)


@dataclasses.dataclass(kw_only=True)
class PlanArgs(TrainArgs):
    """The config of a training, and the devices that it is to run on."""

    target: str | None = None
    """Devices that need not be there: a TPU slice such as v3-32, v4-32, v5e-16, v5p-8 or v6e-8, or GPUs such as h100,
    h100x8, h200, a100-80 or l4; by default this machine's devices."""
    utilization: float = UTILIZATION
    """Share of a device's peak that the step is expected to reach."""
    search: bool = False
    """Find the most rows that a device can compute at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.utilization <= 1:
            raise UserError(f"utilization: {self.utilization} must be above 0 and at most 1.")
        if self.target is not None:
            accelerators_of(self.target)


def main(argv: list[str]) -> int:
    """Plans; 1 if it does not fit."""
    config = parse_config(PlanArgs, argv, prog="lodos plan", description=DESCRIPTION)
    if config.target is None:
        return _plan(config, None)
    wanted = accelerators_of(config.target)
    check_compiler(wanted)
    if os.environ.get(_DESCRIBING):
        with compiling_for(described_target(wanted)):
            return _plan(config, wanted)
    # The environment says before JAX is imported that there is no such device; and where a check of libtpu's fails it
    # ends the process.
    command = [sys.executable, "-m", "lodos", "plan", *argv]
    status = subprocess.run(command, env={**os.environ, **ENVIRONMENT, _DESCRIBING: "1"}, check=False).returncode
    if status < 0:
        raise UserError(f"target: {wanted.name}: its compiler ended with {signal.Signals(-status).name}.")
    return status


def _plan(config: PlanArgs, wanted: Accelerators | None) -> int:
    converter = HFCheckpointConverter.from_hf(config.model_name_or_path)
    memory = memory_of_device()
    console = Console(highlight=False, soft_wrap=True)
    peak = wanted.peak_flops if wanted else matrix_peak(config.trainer.policy.compute_dtype)
    links = wanted.link_bytes if wanted else HOST_LINK
    speeds = Speeds(peak * config.utilization, links)
    # On a CPU every device has all cores.
    devices = target().process_count if target().platform == "cpu" else target().device_count
    config, steps = _with_steps(config, converter)
    has_text = wanted is None or wanted.has_text
    step = plan = None
    with console.status(f"Compiling for {_devices_named(wanted)} ..."):
        if is_open(config):
            found = fitted(config, converter, length=longest(config), read_text=has_text)
            config, step, plan = cast(PlanArgs, found.config), found.step, found.plan
            console.print(f"Chosen by memory and time: {found.why}.")
        step = step or trace_step(config, converter)
        plan = with_evaluation(plan or compile_step(step, read_text=has_text), step)
    console.print(_memory_table(plan, memory, _devices_named(wanted)))
    if wanted is not None and not wanted.is_tuned:
        console.print(_NOT_AUTOTUNED)
    _print_work(console, config, step, plan, speeds, devices)
    console.print(steps.said(step.flops / devices / speeds.flops))
    if config.search and memory is not None:
        with console.status("Looking for the most rows at once ..."):
            most = most_rows_at_once(config, converter, memory)
        rows = "not one row fits" if most is None else f"{most.config.trainer.per_device_parallelism} rows fit"
        at = "" if most is None else f" ({size(most.needed)})"
        console.print(f"At once on a device {rows}{at}: trainer.per_device_parallelism.")
    if plan.fits(memory):
        console.print("It fits." if memory is not None else "It compiles.")
        return 0
    assert memory is not None or plan.refused is not None
    of_memory = "" if memory is None else f" of {size(memory)}"
    console.print(f"It does not fit: {size(plan.needed)}{of_memory}.", style="red")
    with console.status("Looking for what does ..."):
        remedy, tried = cheapest_that_fits(config, converter, memory or 0, speeds, target().device_count)
    for other in tried:
        console.print(f"  {size(other.needed)} needed with {_in_one_line(config, other)}")
    if remedy is None:
        console.print("Nothing that was tried fits. More devices, or a smaller model.")
    else:
        console.print(f"This fits, with {size(remedy.needed)} a device:\n")
        console.print(yaml.safe_dump(changed_settings(config, remedy.config), sort_keys=False), markup=False)
    return 1


@dataclasses.dataclass(frozen=True)
class _Steps:
    """How many steps the run has."""

    count: int | None
    whence: str
    """In words; where nobody knows how many, why not."""

    def said(self, seconds: float) -> str:
        if self.count is None:
            return f"How many steps the run has is not known: {self.whence}"
        return f"{self.count:,} steps{self.whence}: {_time(seconds * self.count)}, besides evaluating and saving."


def _with_steps(config: PlanArgs, converter: HFCheckpointConverter) -> tuple[PlanArgs, _Steps]:
    """The config with its number of steps, of data that is on this machine if it is not given."""
    trainer = config.trainer
    if trainer.num_train_steps is not None:
        return config, _Steps(trainer.num_train_steps, "")
    elsewhere = [one.path for one in parse_sources(config.data) if one.on_hub or is_url(one.path)]
    if elsewhere:
        why = f"{elsewhere[0]} is not on this machine, and nothing is fetched. Give trainer.num_train_steps."
        return config, _Steps(None, why)
    try:
        loaders = make_loaders(config, converter)
        resolved = loaders.resolve(config)
    except UserError as error:
        return config, _Steps(None, str(error).splitlines()[0])
    of_data = f" ({trainer.num_epochs or DEFAULT_EPOCHS:g} epochs of the data)"
    return resolved, _Steps(resolved.trainer.steps, of_data)


def _memory_table(plan: Plan, memory: int | None, devices: str) -> Table:
    table = Table("a device holds", "train step", "evaluation step", title=devices, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    evaluation = plan.evaluation
    for label, name in (
        ("base", "base"),
        ("adapter", "adapter"),
        ("optimizer", "optimizer"),
        ("batch", "batch"),
        ("activations and temporaries", "temporaries"),
    ):
        unknown = name == "temporaries" and plan.refused is not None
        training = "-" if unknown else size(getattr(plan.training, name))
        table.add_row(label, training, "-" if evaluation is None else size(getattr(evaluation, name)))
    table.add_section()
    table.add_row("together", size(plan.needed), "-" if evaluation is None else size(evaluation.total))
    if memory is not None:
        table.add_row("of its memory", *[_share(plan.needed, memory), _share_of(evaluation, memory)])
    return table


def _print_work(console: Console, config: PlanArgs, step: TracedStep, plan: Plan, speeds: Speeds, devices: int) -> None:
    whence = "as compiled" if plan.traffic_is_compiled else "as written in the program; XLA may move more"
    moved = ", ".join(f"{size(count)} {kind}" for kind, count in sorted(plan.traffic.items()))
    console.print(f"Moved to a device in a step ({whence}): {moved or 'nothing'}.")
    seconds = step.flops / devices / speeds.flops
    console.print(
        f"{step.tokens:,} tokens a step, {step.flops / step.tokens / 1e9:.1f} billion operations each; at "
        f"{config.utilization:.0%} of the peak {_time(seconds)} a step. Compiled in {plan.compile_seconds:.0f} s."
    )
    microbatches = config.trainer.train_batch_size // config.trainer.microbatch_size
    gathered = plan.traffic.get("all-gather", 0)
    if microbatches > 1 and gathered:
        console.print(
            f"The base is gathered forward and backward for each of {microbatches} microbatches; all rows at once "
            f"would gather about {size(gathered // microbatches)} in place of {size(gathered)}."
        )


def _in_one_line(config: TrainArgs, plan: Plan) -> str:
    changes = changed_settings(config, plan.config)
    of_trainer = changes.pop("trainer", {})
    flat = {**changes, **{f"trainer.{name}": value for name, value in of_trainer.items()}}
    return ", ".join(f"{name}: {value}" for name, value in flat.items())


def _devices_named(wanted: Accelerators | None) -> str:
    here = target()
    what = f"{here.device_count} x {here.kind}"
    hosts = f"{here.process_count} host{'s' * (here.process_count > 1)}"
    return f"{wanted.name}: {what} on {hosts}" if wanted else what


def _share_of(footprint: Footprint | None, memory: int) -> str:
    return "-" if footprint is None else _share(footprint.total, memory)


def _share(needed: int, memory: int) -> str:
    return f"{needed / memory:.0%} of {size(memory)}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
