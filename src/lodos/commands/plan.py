"""`lodos plan`: whether a config's step fits the devices, what it moves between them and how long it takes.

The step is compiled by the compiler of the devices, from shapes: no weights are read, and no data. With `--target` the
devices need not be there.
"""

import dataclasses
import os
import signal
import subprocess
import sys

import yaml
from rich.console import Console
from rich.table import Table

from lodos.commands.compiled_plan import Plan, TracedStep, compile_step, trace_step
from lodos.commands.plan_remedies import Speeds, changed_settings, cheapest_that_fits, most_rows_at_once
from lodos.config import TrainArgs
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.nn.matrix_peak import matrix_peak
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

_HOST_LINK = 10e9
"""Bytes a second between devices of which nothing better is known; it puts candidates in order, and is not printed."""


@dataclasses.dataclass(kw_only=True)
class PlanArgs(TrainArgs):
    """The config of a training, and the devices that it is to run on."""

    target: str | None = None
    """Devices that need not be there: a TPU slice such as v3-32, v4-32, v5e-16, v5p-8 or v6e-8, or GPUs such as h100,
    h100x8, h200, a100-80 or l4; by default this machine's devices."""
    utilization: float = 0.4
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
    links = wanted.link_bytes if wanted else _HOST_LINK
    speeds = Speeds(peak * config.utilization, links)
    # On a CPU every device has all cores.
    devices = target().process_count if target().platform == "cpu" else target().device_count
    with console.status(f"Compiling for {_devices_named(wanted)} ..."):
        step = trace_step(config, converter)
        has_text = wanted is None or wanted.has_text
        plan = compile_step(step, read_text=has_text, evaluates=True)
    console.print(_memory_table(plan, memory, _devices_named(wanted)))
    if wanted is not None and not wanted.is_tuned:
        console.print(_NOT_AUTOTUNED)
    _print_work(console, config, step, plan, speeds, devices)
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
    if config.trainer.num_train_steps is not None:
        count = config.trainer.num_train_steps
        console.print(f"{count:,} steps: {_time(seconds * count)}, besides evaluating and saving.")


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
