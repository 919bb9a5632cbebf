"""What a token costs in lodos by row length, rank, number of layers and gradient checkpointing.

    python -m bench.scaling                              all sweeps
    python -m bench.scaling --sweeps length packed       row lengths from 512 to 8192, full rows and packed ones
    python -m bench.scaling --sweeps checkpointing --layers 30 --tokens 2048

The shape is SmolLM2-135M's with random weights. Every step of a sweep has the same number of tokens (`--tokens`), so
that only what is swept changes. Full rows are one example each; packed rows hold examples of about 200 tokens, of which
none sees another. The points of a sweep take turns in processes of their own; "of the first" is the cost of a token
relative to the sweep's first point. A point that runs out of memory is said so and left out.
"""

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contestants import Contestant, ContestantFailedError
from bench.floor import MatrixWork
from bench.measure import print_table, write_report
from bench.peers.random_tokens import RandomTokens
from bench.step import FLAG_HELP, LODOS_OPTIMIZER, Measured

EXAMPLE_LENGTH = 200


@dataclass
class Point:
    """One measured setting."""

    sweep: str
    value: str
    tokens: RandomTokens
    rank: int
    layers: int
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `lodos train`."""
    measured: Measured = field(init=False)
    failure: str | None = None

    def __post_init__(self) -> None:
        self.measured = Measured(f"{self.sweep} {self.value}")

    @property
    def microseconds_per_token(self) -> float:
        return self.measured.step_seconds / self.tokens.tokens_per_batch * 1e6

    def report(self, first: "Point") -> dict[str, Any]:
        found: dict[str, Any] = {"sweep": self.sweep, "value": self.value, "rank": self.rank, "layers": self.layers}
        if self.failure is not None:
            return {**found, "failure": self.failure}
        relative = None if first.failure else self.microseconds_per_token / first.microseconds_per_token
        cost = {"microseconds_per_token": self.microseconds_per_token, "of_the_first": relative}
        return {
            **found,
            **cost,
            "peak_bytes": self.measured.peak_bytes,
            "step_seconds_of_rounds": self.measured.seconds,
        }


def measure(folder: Path, points: Sequence[Point], *, rounds: int, steps: int, flags: Mapping[str, Any]) -> None:
    """Lets the points of a sweep take turns; each round's first step of each is not timed."""
    with contextlib.ExitStack() as stack:
        going: list[tuple[Point, Contestant]] = []
        for point in points:
            settings = {
                "folder": str(folder),
                "tokens": point.tokens.__dict__,
                "lora": {"r": point.rank, "alpha": 2.0 * point.rank},
                "optimizer": LODOS_OPTIMIZER,
                "layers": point.layers,
                "flags": {**flags, **point.flags},
            }
            try:
                contestant = Contestant(point.measured.name, "bench.peers.lodos_steps:steps", settings)
            except ContestantFailedError as error:
                point.failure = error.cause
            else:
                going.append((point, stack.enter_context(contestant)))
        for round_number in range(rounds):
            for point, contestant in list(going):
                try:
                    point.measured.take_turn(contestant, first=round_number * (1 + steps), steps=steps)
                except ContestantFailedError as error:
                    point.failure = error.cause
                    going.remove((point, contestant))


def sweep_points(name: str, args: argparse.Namespace, vocab_size: int) -> list[Point]:
    """The points of a sweep, the one that others are compared to first."""

    def tokens(length: int, example_length: int | None = None) -> RandomTokens:
        return RandomTokens(max(1, args.tokens // length), length, vocab_size, example_length=example_length)

    rank, layers = args.rank, args.layers
    match name:
        case "length":
            return [Point(name, str(length), tokens(length), rank, layers) for length in args.lengths]
        case "packed":
            return [Point(name, str(length), tokens(length, EXAMPLE_LENGTH), rank, layers) for length in args.lengths]
        case "rank":
            return [Point(name, str(rank), tokens(args.lengths[0]), rank, layers) for rank in args.ranks]
        case "layers":
            return [Point(name, str(count), tokens(args.lengths[0]), rank, count) for count in args.layer_counts]
        case _:
            return [
                Point(name, kept, tokens(args.lengths[0]), rank, layers, {"gradient_checkpointing": kept})
                for kept in ("dots", "none", "full")
            ]


def print_points(points: Sequence[Point]) -> None:
    rows = []
    for point in points:
        found = point.report(points[0])
        if point.failure is not None:
            rows.append([point.value, "failed", "", point.failure[:60]])
            continue
        relative = "" if found["of_the_first"] is None else f"{found['of_the_first']:.2f}"
        rows.append(
            [point.value, f"{point.microseconds_per_token:.0f}", relative, f"{point.measured.peak_bytes / 1e9:.2f} GB"]
        )
    print()
    print_table([points[0].sweep, "us/token", "of the first", "memory"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sweeps = ["length", "packed", "rank", "layers", "checkpointing"]
    parser.add_argument("--sweeps", nargs="+", choices=sweeps, default=sweeps)
    parser.add_argument("--tokens", type=int, default=8192, help="of a step")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--layer_counts", type=int, nargs="+", default=[5, 10, 20, 30])
    parser.add_argument("--rank", type=int, default=8, help="where it is not swept")
    parser.add_argument("--layers", type=int, default=6, help="where they are not swept")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="timed, in each round")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; by default SmolLM2-135M-Instruct")
    parser.add_argument("--flag", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=FLAG_HELP)
    parser.add_argument("--out", type=Path, default=Path("bench/out/scaling.json"))
    args = parser.parse_args()

    from lodos.demo.base_model import smollm2_folder

    folder = args.model or smollm2_folder()
    vocab_size = MatrixWork.of(folder).head[1]
    reports = []
    for name in args.sweeps:
        points = sweep_points(name, args, vocab_size)
        measure(folder, points, rounds=args.rounds, steps=args.steps, flags=dict(args.flag))
        print_points(points)
        reports += [point.report(points[0]) for point in points]
    write_report(args.out, model=str(folder), tokens_per_step=args.tokens, flags=dict(args.flag), points=reports)


if __name__ == "__main__":
    main()
