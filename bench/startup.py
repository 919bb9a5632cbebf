"""From the command to the first step of `lodos train`, and how long `lodos --help` takes.

    python -m bench.startup

SmolLM2-135M, r=8 on all linear layers, 999 rows of Alpaca's size packed to 4 x 512 a step. Cold: lodos's cache folder
is empty, so rows are tokenized and the step is compiled; warm: the same once more, with what the cold run left there.
The system's own cache of files is warm in both. The phases, by the log's clock:

    imports     all that the verb imports, measured in a process of its own
    loaded      until the log begins: imports, data, weights, everything before the first step
    first step  until the first step is logged, its compilation included
    a step      the one after it
    XLA         of all that and the saving at the end, what JAX reports for compiling, in whichever
                thread; threads that compile at the same time add up
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.data import write_rows
from bench.measure import print_table, write_report
from bench.step import FLAG_HELP
from bench.training_run import TrainingRun

COLUMNS = ("imports", "loaded", "first step", "a step", "XLA")


def start(arguments: Sequence[str], folder: Path, cache: Path) -> dict[str, float]:
    """The seconds of a run of two steps, each phase beside the whole."""
    # Where lodos keeps what it can make again, by its own variable, by JAX's and by the system's.
    environment = {"LODOS_CACHE": str(cache), "XDG_CACHE_HOME": str(cache), "JAX_LOG_COMPILES": "1"}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(cache / "xla")
    imports = time_command(["-c", "import lodos.commands.train"], environment)
    with TrainingRun("lodos", [*arguments, "--trainer.num_train_steps", "2"], folder, environment) as run:
        run.finish()
        first, second = run.steps()
        return {
            "to the first step": first["time"] - run.started,
            "imports": imports,
            "loaded": run.records()[0]["time"] - run.started,
            "first step": first["time"] - run.records()[0]["time"],
            "a step": second["time"] - first["time"],
            "XLA": _compile_seconds(run.words),
        }


def time_command(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """The seconds of a Python process."""
    started = time.perf_counter()
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **path, **(environment or {})},
    )
    return time.perf_counter() - started


def print_starts(starts: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """The medians of each kind of start."""
    names = ("to the first step", *COLUMNS)
    rows = [
        [kind, *(f"{statistics.median(one[name] for one in of_kind):.1f} s" for name in names)]
        for kind, of_kind in starts.items()
    ]
    print_table(["", *names], rows)


def _compile_seconds(words: str) -> float:
    """The sum of JAX's `Finished XLA compilation of jit(step) in 0.123456789 sec`, of which some handlers print each
    twice. (Tracing is reported too, but that of a function within another is in both.)"""
    lines = set(re.findall(r"Finished XLA compilation of ([^\n]+? in ([\d.e-]+)) sec", words))
    return sum(float(seconds) for _, seconds in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="cold and warm starts")
    parser.add_argument("--rows", type=int, default=999)
    parser.add_argument("--shape", default="4x512", help="rows x positions of a step")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; by default SmolLM2-135M-Instruct")
    parser.add_argument("--flag", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=FLAG_HELP)
    parser.add_argument("--out", type=Path, default=Path("bench/out/startup.json"))
    args = parser.parse_args()

    from lodos.demo.base_model import smollm2_folder

    batch_size, seq_len = args.shape.split("x")
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_rows(work / "rows.jsonl", args.rows)
        arguments = ["--model_name_or_path", str(args.model or smollm2_folder()), "--data", str(work / "rows.jsonl")]
        arguments += ["--packing", "true", "--max_tune_length", seq_len, "--seq_len", seq_len]
        arguments += ["--trainer.train_batch_size", batch_size]
        arguments += [part for name, value in args.flag for part in (f"--{name}", value)]
        for repeat in range(args.repeats):
            for kind, of_kind in starts.items():
                of_kind.append(start(arguments, work / f"{kind}-{repeat}", work / f"cache-{repeat}"))
    print_starts(starts)
    help_seconds = statistics.median(time_command(["-m", "lodos", "--help"]) for _ in range(5))
    print(f"lodos --help: {help_seconds:.2f} s")
    write_report(args.out, shape=args.shape, starts=starts, help_seconds=help_seconds)


if __name__ == "__main__":
    main()
