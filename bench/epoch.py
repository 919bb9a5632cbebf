"""Same examples: an epoch of Alpaca rows in lodos and in transformers' Trainer with PEFT, taking turns by steps.

    python -m bench.epoch --data src/lodos/demo/data/train.jsonl               900 rows, 99 held out
    python -m bench.epoch --data src/lodos/demo/data/train.jsonl --rows 256    fewer training rows, the same held out

SmolLM2-135M, r=8 on all linear layers, float32, prompts masked, 32 examples a step, AdamW with a cosine schedule, from
the same adapter; each as its users run it:

    lodos               `lodos train`, packed rows, as many to a step as hold 32 examples on average
    PEFT as its users   micro-batches of 4 random rows, padded to the longest, 8 of them a step, as alpaca-lora does
    PEFT grouped        rows of like length together, with the environment of bench/peers/environments.py
    PEFT flattened      no padding: a micro-batch is one long row (DataCollatorWithFlattening), same environment

Examples a second are those of all steps but the first over the time of these steps; the epoch's seconds are those of
all steps, with what is compiled in the first. Evaluation, start-up and saving are in neither. The held-out loss is
computed by lodos for every adapter alike. Needs torch and peft.
"""

import argparse
import contextlib
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contestants import Contestant
from bench.measure import print_table, write_report
from bench.peers.alpaca_rows import tokenized_rows
from bench.peers.environments import tuned_for_torch
from bench.step import FLAG_HELP
from bench.training_run import TrainingRun

LODOS, USERS, GROUPED, FLATTENED = "lodos", "PEFT as its users", "PEFT grouped", "PEFT flattened"
ARRANGEMENTS = {USERS: "random", GROUPED: "grouped", FLATTENED: "flattened"}

EXAMPLES_PER_STEP = 32
USERS_MICRO_BATCH = 4
HELD_OUT = 99
OPTIMIZER = {
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
}


@dataclass
class Epoch:
    """What a contestant did."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """Of each turn; the first is one step."""
    steps: list[int] = field(default_factory=list)
    """Of each turn."""
    peak_bytes: int = 0
    examples: list[int] = field(default_factory=list)
    """Of each step."""
    held_out_loss: float = math.nan

    @property
    def examples_per_second(self) -> float:
        return sum(self.examples[1:]) / sum(self.seconds[1:])

    def report(self, users: "Epoch | None") -> dict[str, Any]:
        return {
            "name": self.name,
            "examples_per_second": self.examples_per_second,
            "ratio_to_users": self.examples_per_second / users.examples_per_second if users else None,
            "epoch_seconds": sum(self.seconds),
            "first_step_seconds": self.seconds[0],
            "steps": sum(self.steps),
            "examples": sum(self.examples),
            "peak_bytes": self.peak_bytes,
            "held_out_loss": self.held_out_loss,
            "seconds_of_turns": self.seconds,
            "steps_of_turns": self.steps,
        }


Turn = Callable[[int], tuple[int, float, int]]
"""Does so many steps, or those that are left: how many, in how many seconds, and the peak memory."""


def take_turns(turns: dict[str, Turn], *, steps: int) -> dict[str, Epoch]:
    """Each in turn does `steps` steps, one the first time, until all are at their epoch's end."""
    epochs = {name: Epoch(name) for name in turns}
    going = list(turns)
    count = 1
    while going:
        for name in list(going):
            done, seconds, peak = turns[name](count)
            if done:
                epochs[name].steps.append(done)
                epochs[name].seconds.append(seconds)
                epochs[name].peak_bytes = max(peak, epochs[name].peak_bytes)
                print(f"{name}: step {sum(epochs[name].steps)}, {seconds / done:.1f} s a step", file=sys.stderr)
            if done < count:
                going.remove(name)
        count = steps
    return epochs


def compare(
    folder: Path,
    data: Path,
    *,
    held_out: int,
    rows: int | None,
    contestants: Sequence[str],
    micro_batch: int,
    packed_rows: int,
    steps: int,
    flags: Sequence[str],
    seed: int = 0,
) -> tuple[list[Epoch], float]:
    """An epoch of each contestant, and the held-out loss before it.

    Args:
        data: a JSON array of Alpaca rows.
        held_out: how many of them are held out.
        rows: of the others, how many are trained.
        contestants: of those in `ARRANGEMENTS`, beside lodos.
        micro_batch: rows that PEFT at its best computes at once.
        packed_rows: of a step in lodos; their length follows from it.
        steps: of a turn.
        flags: of `lodos train`.
    """
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        training, validation = _split(data, work, held_out=held_out, rows=rows, seed=seed)
        examples = tokenized_rows(folder, training, max_length=1 << 20, cache=work / "tokens")
        positions = [max(int(length) - 1, 0) for length in examples.lengths]
        seq_len = packed_length(positions, packed_rows)
        arguments = _lodos_arguments(folder, training, seq_len, packed_rows, seed)
        arguments += ["--data_cache_dir", str(work / "tokens"), *flags]

        judge = stack.enter_context(
            Contestant("judge", "bench.peers.judge:judge", {"arguments": arguments, "held_out": str(validation)})
        )
        initial = str(work / "initial")
        judge.ask(initial_adapter=initial)
        before = judge.ask(held_out_loss=None)["loss"]
        judge.rest()

        run = stack.enter_context(TrainingRun(LODOS, arguments, work / LODOS))
        run.wait_until_loaded()
        turns: dict[str, Turn] = {LODOS: lambda count: (*run.do_steps(count), run.peak_bytes)}
        adapters = {}
        for name in contestants:
            adapters[name] = work / ARRANGEMENTS[name] / "adapter"
            adapters[name].parent.mkdir()
            at_once = USERS_MICRO_BATCH if name == USERS else micro_batch
            settings = {
                "folder": str(folder),
                "data": str(training),
                "max_length": seq_len + 1,
                "optimizer": OPTIMIZER,
                "initial_adapter": initial,
                "adapter": str(adapters[name]),
                "arrangement": ARRANGEMENTS[name],
                "micro_batch": at_once,
                "accumulation": EXAMPLES_PER_STEP // at_once,
            }
            environment = {} if name == USERS else tuned_for_torch()
            peer = stack.enter_context(Contestant(name, "bench.peers.peft_epoch:epoch", settings, environment))
            turns[name] = _turn_of(peer)

        epochs = take_turns(turns, steps=steps)
        adapters[LODOS] = run.finish()
        for name, one in epochs.items():
            one.held_out_loss = judge.ask(held_out_loss=str(adapters[name]))["loss"]
            count = sum(one.steps)
            if name == LODOS:
                one.examples = judge.ask(examples=count)["examples"]
            else:
                left = len(positions) - EXAMPLES_PER_STEP * (count - 1)
                one.examples = [EXAMPLES_PER_STEP] * (count - 1) + [left]
        return list(epochs.values()), before


def packed_length(positions: Sequence[int], packed_rows: int) -> int:
    """The length of rows of which so many hold `EXAMPLES_PER_STEP` examples on average, a multiple of 64 that holds
    the longest."""
    wanted = EXAMPLES_PER_STEP * sum(positions) / len(positions) / packed_rows
    return 64 * math.ceil(max(wanted, max(positions)) / 64)


def print_epochs(epochs: Sequence[Epoch]) -> None:
    users = next((one for one in epochs if one.name == USERS), None)
    rows = []
    for one in epochs:
        found = one.report(users)
        rows.append(
            [
                one.name,
                f"{found['examples_per_second']:.2f}",
                f"{found['ratio_to_users']:.2f}" if users else "",
                f"{found['epoch_seconds']:.0f} s",
                f"{found['first_step_seconds']:.0f} s",
                f"{found['steps']}",
                f"{found['examples']}",
                f"{one.peak_bytes / 1e9:.2f} GB",
                f"{one.held_out_loss:.4f}",
            ]
        )
    header = [
        "",
        "examples/s",
        "of PEFT's users",
        "epoch",
        "first step",
        "steps",
        "examples",
        "memory",
        "held-out loss",
    ]
    print_table(header, rows)


def _turn_of(peer: Contestant) -> Turn:
    def turn(count: int) -> tuple[int, float, int]:
        answer = peer.ask(steps=count)
        peer.rest()
        return answer["steps"], answer["seconds"], answer["peak_bytes"]

    return turn


def _split(data: Path, work: Path, *, held_out: int, rows: int | None, seed: int) -> tuple[Path, Path]:
    """Files of the training and the held-out rows; those held out are the same however many are trained."""
    all_rows = json.loads(data.read_text(encoding="utf-8"))
    random.Random(seed).shuffle(all_rows)
    paths = work / "training.json", work / "held_out.json"
    for path, part in zip(paths, (all_rows[held_out:][:rows], all_rows[:held_out]), strict=True):
        path.write_text(json.dumps(part), encoding="utf-8")
    return paths


def _lodos_arguments(folder: Path, training: Path, seq_len: int, packed_rows: int, seed: int) -> list[str]:
    settings = {
        "model_name_or_path": folder,
        "data": training,
        "packing": "true",
        "seq_len": seq_len,
        "max_tune_length": seq_len + 1,
        "lora.r": 8,
        "lora.alpha": 16,
        "optimizer.lr_schedule": "cosine",
        "optimizer.warmup": 0,
        "trainer.num_epochs": 1,
        "trainer.train_batch_size": packed_rows,
        "trainer.seed": seed,
        **{f"optimizer.{name}": value for name, value in OPTIMIZER.items()},
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a JSON array of Alpaca rows")
    parser.add_argument("--rows", type=int, help="trained ones; by default all that are not held out")
    parser.add_argument("--held_out", type=int, default=HELD_OUT)
    parser.add_argument(
        "--contestants", nargs="+", choices=ARRANGEMENTS, default=[USERS, FLATTENED], help="beside lodos"
    )
    parser.add_argument("--micro_batch", type=int, default=8, help="of PEFT grouped and flattened")
    parser.add_argument("--packed_rows", type=int, default=8, help="of a step in lodos")
    parser.add_argument("--at_once", type=int, default=4, help="of these, rows computed at once")
    parser.add_argument("--steps", type=int, default=1, help="of a turn")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; by default SmolLM2-135M-Instruct")
    parser.add_argument("--flag", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=FLAG_HELP)
    parser.add_argument("--out", type=Path, default=Path("bench/out/epoch.json"))
    args = parser.parse_args()
    if args.rows is not None and args.rows < 2 * EXAMPLES_PER_STEP:
        parser.error(f"--rows: at least {2 * EXAMPLES_PER_STEP}, since the first step is not counted.")

    from lodos.demo.base_model import smollm2_folder

    folder = args.model or smollm2_folder()
    flags = ["--trainer.per_device_parallelism", str(args.at_once)]
    flags += [part for name, value in args.flag for part in (f"--{name}", value)]
    epochs, before = compare(
        folder,
        args.data,
        held_out=args.held_out,
        rows=args.rows,
        contestants=args.contestants,
        micro_batch=args.micro_batch,
        packed_rows=args.packed_rows,
        steps=args.steps,
        flags=flags,
    )
    print(f"held-out loss before: {before:.4f}")
    print_epochs(epochs)
    users = next((one for one in epochs if one.name == USERS), None)
    write_report(
        args.out,
        model=str(folder),
        flags=flags,
        tuned=tuned_for_torch(),
        held_out_loss_before=before,
        contestants=[one.report(users) for one in epochs],
    )


if __name__ == "__main__":
    main()
