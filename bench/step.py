"""Same tokens: the training step of lodos and of transformers + PEFT on the same batches, taking turns.

    python -m bench.step                                   4x512 and 2x2048, SmolLM2-135M, r=8 on all linear layers
    python -m bench.step --shapes 4x512 --trained 0.6      with prompts that are not trained
    python -m bench.step --together                        all contestants in one circle

lodos takes turns with PEFT, then with PEFT tuned; `--together` all three do so in one circle. All start from the same
adapter and see the same random tokens, none of them filler, so their losses must agree, and the table says how far they
do. "As it comes" is a plain loop of model, `backward` and torch's AdamW with every default; "tuned" is the same with
the environment of `bench/peers/environments.py`. In each round each contestant does some steps, and the machine's
float32 matrix speed is measured as JAX and torch reach it; "of the peak" is the share of it that the floor of
`bench/floor.py` takes. Memory is the most that a process has ever had resident. Needs torch and peft.
"""

import argparse
import contextlib
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contestants import Contestant
from bench.floor import MatrixWork
from bench.measure import print_table, write_report
from bench.peers.environments import tuned_for_torch
from bench.peers.random_tokens import RandomTokens

LODOS, PEFT, TUNED = "lodos", "PEFT as it comes", "PEFT tuned"

OPTIMIZER = {
    "learning_rate": 3e-4,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
}
"""AdamW with a constant rate, on all sides."""

LODOS_OPTIMIZER = {**OPTIMIZER, "lr_schedule": "constant", "warmup": 0}
"""The same as fields of lodos's `OptimizerConfig`."""

FLAG_HELP = "a setting of lodos train other than its default; may be given again"

COMPARED_STEPS = 3
"""The first steps, whose losses must agree. Later ones drift apart as AdamW turns rounding noise into steps."""


@dataclass
class Measured:
    """What a contestant did at one shape."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """A step, of each round."""
    losses: list[float] = field(default_factory=list)
    """Of every step, the first ones included."""
    first_step_seconds: float = 0.0
    """The first step, with whatever is compiled for it and not found in a cache of compiled programs."""
    peak_bytes: int = 0

    @property
    def step_seconds(self) -> float:
        return statistics.median(self.seconds)

    def take_turn(self, contestant: Contestant, *, first: int, steps: int) -> None:
        """A step that is not timed, since memory has to be had again and the first ever is compiled; then some that
        are. `first` is the number of the first batch."""
        settling = contestant.ask(first=first, steps=1)
        timed = contestant.ask(first=first + 1, steps=steps)
        contestant.rest()
        if not self.losses:
            self.first_step_seconds = settling["seconds"]
        self.losses += settling["losses"] + timed["losses"]
        self.seconds.append(timed["seconds"] / steps)
        self.peak_bytes = timed["peak_bytes"]

    def loss_difference(self, other: "Measured") -> float:
        """The largest relative difference of a loss over the first steps."""
        pairs = list(zip(self.losses, other.losses, strict=True))[:COMPARED_STEPS]
        return max(abs(a - b) / abs(b) for a, b in pairs)


@dataclass(frozen=True)
class Comparison:
    """All contestants at one shape."""

    tokens: RandomTokens
    measured: list[Measured]
    matrix_flops: dict[str, list[float]]
    """By library, the speed of its fastest product in each round, in flops a second."""
    floor_flops: int

    @property
    def peak_flops(self) -> float:
        """The machine's: the better library's median."""
        return max(statistics.median(speeds) for speeds in self.matrix_flops.values())

    def share_of_peak(self, measured: Measured) -> float:
        return self.floor_flops / measured.step_seconds / self.peak_flops

    @property
    def peer(self) -> Measured | None:
        """The first beside lodos, to which all are compared."""
        return next((one for one in self.measured if one.name != LODOS), None)

    def report(self) -> dict[str, Any]:
        peer = self.peer
        return {
            "shape": f"{self.tokens.rows}x{self.tokens.length}",
            "trained": self.tokens.trained,
            "matrix_flops_per_second": self.matrix_flops,
            "floor_flops_per_step": self.floor_flops,
            "contestants": [
                {
                    "name": one.name,
                    "tokens_per_second": self.tokens.tokens_per_batch / one.step_seconds,
                    "ratio_to_peer": peer.step_seconds / one.step_seconds if peer else None,
                    "share_of_peak": self.share_of_peak(one),
                    "peak_bytes": one.peak_bytes,
                    "first_step_seconds": one.first_step_seconds,
                    "loss_difference": one.loss_difference(peer) if peer else None,
                    "step_seconds_of_rounds": one.seconds,
                    "losses": one.losses,
                }
                for one in self.measured
            ],
        }

    def print(self) -> None:
        by_library = ", ".join(f"{name} {statistics.median(of) / 1e9:.0f}" for name, of in self.matrix_flops.items())
        print(
            f"\n{self.tokens.rows}x{self.tokens.length} tokens, {self.tokens.trained_per_batch} of "
            f"{self.tokens.tokens_per_batch} trained; matrix products at {self.peak_flops / 1e9:.0f} GFLOP/s "
            f"({by_library}); floor {self.floor_flops / 1e9:.0f} GFLOP a step, "
            f"{self.tokens.tokens_per_batch * self.peak_flops / self.floor_flops:.0f} tokens/s"
        )
        compared = f"of {self.peer.name}" if self.peer else ""
        header = ["", "tokens/s", compared, "of the peak", "memory", "first step", "losses apart"]
        print_table(header, [self._row(one) for one in self.report()["contestants"]])

    def _row(self, one: Mapping[str, Any]) -> list[str]:
        return [
            one["name"],
            f"{one['tokens_per_second']:.0f}",
            f"{one['ratio_to_peer']:.2f}" if one["ratio_to_peer"] else "",
            f"{one['share_of_peak']:.0%}",
            f"{one['peak_bytes'] / 1e9:.2f} GB",
            f"{one['first_step_seconds']:.1f} s",
            f"{one['loss_difference']:.0e}" if one["loss_difference"] is not None else "",
        ]


def compare(
    folder: Path,
    tokens: RandomTokens,
    *,
    contestants: list[str],
    rounds: int,
    steps: int,
    lora: Mapping[str, Any],
    flags: Mapping[str, Any],
    matrix_seconds: float = 0.25,
) -> Comparison:
    """Lets the contestants take turns at one shape.

    Args:
        contestants: of `PEFT` and `TUNED`, beside lodos.
        steps: each contestant's in each round, after one that is not timed.
        lora: fields of `LoraConfig`.
        flags: settings of `lodos train` other than its defaults.
        matrix_seconds: of each product in each library in each round.
    """
    work = MatrixWork.of(folder)
    floor_flops = work.floor_flops(tokens.tokens_per_batch, tokens.trained_per_batch)
    matrix_flops: dict[str, list[float]] = {"JAX": [], "torch": []}
    with contextlib.ExitStack() as stack:
        shapes = {"shapes": work.shapes(tokens.tokens_per_batch)}
        matrix = {
            name: stack.enter_context(Contestant(name, f"bench.peers.matrix:{name.lower()}_matrix", shapes))
            for name in matrix_flops
        }
        started = list(_start(stack, folder, tokens, contestants, lora, flags))
        measured = [Measured(contestant.name) for contestant in started]
        for round_number in range(rounds):
            for contestant, one in zip(started, measured, strict=True):
                one.take_turn(contestant, first=round_number * (1 + steps), steps=steps)
            for name, contestant in matrix.items():
                matrix_flops[name].append(max(contestant.ask(seconds=matrix_seconds)["flops_per_second"]))
    return Comparison(tokens, measured, matrix_flops, floor_flops)


def _start(
    stack: contextlib.ExitStack,
    folder: Path,
    tokens: RandomTokens,
    contestants: list[str],
    lora: Mapping[str, Any],
    flags: Mapping[str, Any],
) -> Iterator[Contestant]:
    """lodos first: it writes the adapter that all start from."""
    initial = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "initial")
    common = {"folder": str(folder), "tokens": tokens.__dict__, "initial_adapter": initial}
    for_lodos = {**common, "lora": lora, "optimizer": LODOS_OPTIMIZER, "flags": flags}
    yield stack.enter_context(Contestant(LODOS, "bench.peers.lodos_steps:steps", for_lodos))
    environments = {PEFT: {}, TUNED: tuned_for_torch()}
    for name in contestants:
        if name in environments:
            settings = {**common, "optimizer": OPTIMIZER}
            yield stack.enter_context(Contestant(name, "bench.peers.peft_steps:steps", settings, environments[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["4x512", "2x2048"], help="rows x tokens of a step")
    parser.add_argument("--trained", type=float, default=1.0, help="share of each row's tokens that are trained")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="timed, of each contestant in each round")
    parser.add_argument("--contestants", nargs="*", choices=[PEFT, TUNED], default=[PEFT, TUNED], help="beside lodos")
    parser.add_argument("--together", action="store_true", help="all in one circle, instead of lodos with each")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; by default SmolLM2-135M-Instruct")
    parser.add_argument("--r", type=int, default=8, help="rank, on all linear layers")
    parser.add_argument("--flag", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=FLAG_HELP)
    parser.add_argument("--out", type=Path, default=Path("bench/out/step.json"))
    args = parser.parse_args()

    from lodos.demo.base_model import smollm2_folder

    folder = args.model or smollm2_folder()
    vocab_size = MatrixWork.of(folder).head[1]
    comparisons = []
    circles = [args.contestants] if args.together or not args.contestants else [[name] for name in args.contestants]
    for shape, contestants in itertools.product(args.shapes, circles):
        rows, length = map(int, shape.split("x"))
        comparison = compare(
            folder,
            RandomTokens(rows, length, vocab_size, args.trained),
            contestants=contestants,
            rounds=args.rounds,
            steps=args.steps,
            lora={"r": args.r, "alpha": 2.0 * args.r},
            flags=dict(args.flag),
        )
        comparison.print()
        comparisons.append(comparison.report())
    write_report(args.out, model=str(folder), tuned=tuned_for_torch(), flags=dict(args.flag), comparisons=comparisons)


if __name__ == "__main__":
    main()
