"""What two runs of one config have in common, down to the last bit, and where they part."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lodos.commands.drill_witness import Seen, read_trace
from lodos.places.manifest import MANIFEST
from lodos.tracking.jsonl import read_records
from lodos.train.checkpoint_folder import CheckpointFolder

_TELLING = (".safetensors", ".json", ".jinja")
"""Files of an export that say what it does; a model card also says when it was written, and so does the manifest."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """One thing that both runs have."""

    what: str
    count: int
    """How many of it were compared."""
    parts: str | None = None
    """Where they part; None where they are the same."""


def compared(undisturbed: Path, killed: Path, traces: tuple[Path, Path]) -> list[Compared]:
    """The runs in these folders, of which the second was killed and gone on with.

    Args:
        traces: what each of them noted of its steps.
    """
    straight, again = (read_trace(trace) for trace in traces)
    logs = [read_records(run / "log.jsonl") for run in (undisturbed, killed)]
    return [
        _of_steps("batches, in their order", straight, again, lambda seen: seen.batch),
        _of_steps("random bits of steps", straight, again, lambda seen: seen.bits),
        *(_of_log(what, logs[0], logs[1], key) for what, key in _LOGGED.items()),
        _of_names("arrays of parameters and optimizer", _arrays(undisturbed), _arrays(killed)),
        _of_names("files of adapters and models", _files(undisturbed), _files(killed)),
    ]


_LOGGED = {
    "training losses": "train/loss",
    "gradient norms": "train/grad_norm",
    "held-out losses": "eval/loss",
}


def _of_steps(what: str, straight: Sequence[Seen], again: Sequence[Seen], of: Callable[[Seen], str]) -> Compared:
    """Each step by each process that has begun it."""
    meant = {seen.step: of(seen) for seen in straight}
    differing = sorted({seen.step for seen in again if meant.get(seen.step) != of(seen)})
    missing = sorted(meant.keys() - {seen.step for seen in again})
    if differing:
        return Compared(what, len(again), f"from step {differing[0]} on; {len(differing)} steps")
    return Compared(what, len(again), f"step {missing[0]} was never taken" if missing else None)


def _of_log(what: str, straight: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]], key: str) -> Compared:
    """The numbers of one name, at their steps, which have to grow."""
    meant, found = ([(one["step"], one[key]) for one in records if key in one] for records in (straight, again))
    for (step, value), other in zip(meant, found, strict=False):
        if other != (step, value):
            return Compared(
                what, len(meant), f"from step {step} on: {value} undisturbed, {other[1]} at step {other[0]}"
            )
    if len(meant) != len(found):
        return Compared(what, len(meant), f"{len(meant)} undisturbed, {len(found)} in the log of the other")
    return Compared(what, len(meant))


def _of_names(what: str, meant: Mapping[str, str], found: Mapping[str, str]) -> Compared:
    differing = sorted(name for name in meant.keys() & found.keys() if meant[name] != found[name])
    lone = sorted(meant.keys() ^ found.keys())
    said = [f"{name} differs" for name in differing] + [
        f"{name} is {'missing' if name in meant else 'there as well'}" for name in lone
    ]
    more = f", and {len(said) - 1} more" if len(said) > 1 else ""
    return Compared(what, len(meant), said[0] + more if said else None)


def _arrays(run: Path) -> dict[str, str]:
    """The arrays of the newest checkpoint by their names, as SHA-256 of their bytes."""
    folder = CheckpointFolder(run / "train_state")
    step = folder.steps()[-1]
    arrays = folder.manifest(step).facts["arrays"]
    return {f"step {step}: {name}": f"{one['shape']} {one['dtype']} {one['sha256']}" for name, one in arrays.items()}


def _files(run: Path) -> dict[str, str]:
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in ("peft", "merged")
        for path in sorted((run / kind).rglob("*"))
        if path.is_file() and path.suffix in _TELLING and path.name != MANIFEST
    }
