"""A training that leaves a trace: which batch each step was given, and which random bits.

`python -m lodos.commands.drill_witness CONFIG TRACE` is `lodos train CONFIG` that appends a line to TRACE for each
step:

    {"step": 3, "batch": "<digest of the batch's arrays>", "bits": "<digest of the step's key>", "at": 1760000000.0}

A line is one write, so whoever is killed leaves whole lines and at most one that is cut short, which is not read.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lodos.runtime import prepare_runtime


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a step was given."""

    step: int
    """Counted from 1."""
    batch: str
    """A digest of the batch's arrays."""
    bits: str
    """A digest of the key from which the step's randomness follows."""
    at: float
    """When it was given it, in seconds since 1970."""


class Witness:
    """A loader that notes each batch as it is handed out; what else it knows is the loader's own.

    Args:
        training_key: of the run, from which each step's random bits follow.
    """

    def __init__(self, loader: Any, training_key: Any, trace: Path):
        self._loader = loader
        self._key = training_key
        self._trace = trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def iter_from_step(self, step: int) -> Iterator[Any]:
        import jax
        import numpy as np

        def digest(arrays: Any) -> str:
            parts = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(arrays)]
            said = b"".join(f"{part.shape} {part.dtype} ".encode() + part.tobytes() for part in parts)
            return hashlib.sha256(said).hexdigest()[:16]

        file = os.open(self._trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            for batch in self._loader.iter_from_step(step):
                bits = digest(jax.random.key_data(jax.random.fold_in(self._key, step)))
                step += 1
                line = dataclasses.asdict(Seen(step, digest(batch), bits, time.time()))
                os.write(file, json.dumps(line).encode() + b"\n")
                yield batch
        finally:
            os.close(file)


def read_trace(trace: Path) -> list[Seen]:
    """The steps that were seen, in the order of their beginning; after a kill some of them again."""
    content = trace.read_bytes() if trace.exists() else b""
    found = []
    for line in content.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, TypeError):  # cut short by a kill, and gone on with
            found.append(Seen(**json.loads(line)))
    return found


def main(argv: list[str]) -> int:
    """Trains as a config file says, and leaves a trace."""
    prepare_runtime()
    from lodos.commands.train import train
    from lodos.config import TrainArgs
    from lodos.config_parsing import parse_config

    config, trace = argv
    train(
        parse_config(TrainArgs, [config], prog="lodos drill"),
        witness=lambda loader, state: Witness(loader, state.training_key, Path(trace)),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
