"""`lodos drill`: whether a run of a config survives being killed, on this machine and with this data.

The config's run is taken for some steps undisturbed, and once more while it is killed again and again. Both have to
come to the same, bit for bit: batches in their order, random bits, losses, parameters, optimizer, adapters.
"""

import dataclasses
import random
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import draccus
from rich.console import Console
from rich.table import Table

from lodos.commands.drill_kills import Kill, Pace, Run, random_moment
from lodos.commands.drill_outcome import Compared, compared
from lodos.config import UPLOADS, TrainArgs
from lodos.config_parsing import dump_config, encode_config, parse_config
from lodos.errors import UserError
from lodos.formats.progress import progress_bar
from lodos.places.place import is_remote, place_of
from lodos.places.saving import check_writable
from lodos.train.config import CheckpointerConfig

DESCRIPTION = """\
Run a config for some steps, and run it again while it is killed (SIGKILL) at random moments, while it starts, within
steps and within saves, and gone on with. What both leave is compared bit for bit: the order of the data, random bits,
losses, parameters, optimizer and adapters. They are the same, or it says where they part and the exit status is 1.
Nothing is uploaded or tracked, and the two runs are removed if they are the same.
Example: lodos drill my.yaml --kills 10"""

_SAVES = 6
"""Checkpoints, and exports, in a drill."""
_MISSES = 5
"""How often in a row a kill may come too late."""


@dataclasses.dataclass(kw_only=True)
class DrillArgs(TrainArgs):
    """The config of a training, and how it is disturbed."""

    steps: int = 36
    """Optimizer steps of the drill, in place of the config's."""
    kills: int = 6
    """How often the run is killed."""
    kill_seed: int | None = None
    """Decides the moments; by default others each time."""

    def __post_init__(self) -> None:
        problems = []
        try:
            super().__post_init__()
        except UserError as error:
            problems.append(str(error))
        problems += [
            f"{name}: {value} must be at least {least}."
            for name, value, least in (("steps", self.steps, 2), ("kills", self.kills, 1))
            if value < least
        ]
        if is_remote(place_of(self.trainer.run_dir)):
            problems.append(f"trainer.run_dir: {self.trainer.run_dir}: give a folder of this machine for the drill.")
        if problems:
            raise UserError("\n".join(problems))


@dataclasses.dataclass(frozen=True)
class DrillResult:
    """What came of it."""

    kills: Sequence[Kill]
    compared: Sequence[Compared]
    folder: Path | None
    """Where the two runs are, if they part."""

    @property
    def parts(self) -> bool:
        return any(one.parts for one in self.compared)


def main(argv: list[str]) -> int:
    """Drills; 1 if the runs part."""
    config = parse_config(DrillArgs, argv, prog="lodos drill", description=DESCRIPTION)
    result = drill(config)
    report(result)
    return 1 if result.parts else 0


def drill(config: DrillArgs) -> DrillResult:
    """Both runs, and what they have in common.

    Raises:
        UserError: for what is wrong with the config, and when a run ends by itself.
    """
    above = place_of(config.trainer.run_dir)
    assert isinstance(above, Path), "others are refused with the config"
    check_writable("trainer.run_dir", above)
    folder = above / f"drill-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    seed = secrets.randbits(32) if config.kill_seed is None else config.kill_seed
    is_same = False
    try:
        with progress_bar("undisturbed", 2 + config.kills, enabled=True) as advance:
            straight = _run(config, folder, "undisturbed")
            pace = straight.undisturbed()
            advance()
            run = _run(config, folder, "killed")
            kills = _kill_again_and_again(run, config, pace, random.Random(seed), advance)
            run.undisturbed()
            advance()
        found = compared(straight.folder, run.folder, (straight.trace, run.trace))
        is_same = not any(one.parts for one in found)
        return DrillResult(kills, found, None if is_same else folder)
    finally:
        # A run that failed is kept too: its config and what it said are in there.
        if is_same:
            shutil.rmtree(folder, ignore_errors=True)


def report(result: DrillResult, console: Console | None = None) -> None:
    """Shows what was compared, and says where the runs part."""
    console = console or Console(highlight=False)
    saving, starting = (
        sum(getattr(kill, name) for kill in result.kills) for name in ("while_saving", "while_starting")
    )
    console.print(
        f"Killed {len(result.kills)} times, {saving} with a save under way and {starting} before the first step; last "
        f"steps begun: {', '.join(str(kill.step) for kill in result.kills)}."
    )
    table = Table("compared", "how many", "result")
    for one in result.compared:
        table.add_row(one.what, str(one.count), "the same" if one.parts is None else f"[red]part: {one.parts}[/red]")
    console.print(table)
    if result.parts:
        console.print(f"The killed run is not the undisturbed one. Both are kept: {result.folder}", style="red")
    else:
        console.print("The killed run is the undisturbed one, bit for bit.")


def _kill_again_and_again(
    run: Run, config: DrillArgs, pace: Pace, chance: random.Random, advance: object
) -> list[Kill]:
    kills: list[Kill] = []
    misses = 0
    while len(kills) < config.kills and misses < _MISSES:
        left = config.kills - len(kills)
        moment = random_moment(
            chance, pace, done=run.begun, steps=config.steps, left=left, interval=_interval(config.steps)
        )
        if (kill := run.killed(moment)) is None:
            misses += 1
            continue
        misses = 0
        kills.append(kill)
        assert callable(advance)
        advance()
    return kills


def _interval(steps: int) -> int:
    return max(1, steps // _SAVES)


def _run(config: DrillArgs, folder: Path, name: str) -> Run:
    """One of the two runs, with its config written."""
    interval = _interval(config.steps)
    trainer = dataclasses.replace(
        config.trainer,
        id=name,
        run_dir=str(folder),
        num_train_steps=config.steps,
        num_epochs=None,
        steps_per_eval=interval,
        load_checkpoint=None,
        load_checkpoint_step=None,
        checkpointer=CheckpointerConfig(save_interval=interval),
        wandb=None,
        tracker=None,
    )
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainArgs)}
    values |= dict.fromkeys((*UPLOADS, "hf_save_path", "merged_hf_save_path", "hf_save_keep"))
    merged = config.save_merged or config.merged_hf_save_path is not None or config.merged_hf_upload is not None
    args = TrainArgs(**{**values, "trainer": trainer, "hf_save_steps": interval, "save_merged": merged})
    if encode_config(args) != draccus.encode(args):
        raise UserError(
            "The config has a password, a token or a signature in it, such as in a URL, which is written to no file. "
            "Drill with a copy of these files on this machine."
        )
    path = folder / f"{name}.yaml"
    path.write_text(dump_config(args), encoding="utf-8")
    return Run(folder / name, path, folder / f"{name}.trace.jsonl", folder / f"{name}.log")
