"""Published models on TPU slices and GPUs that are not here: what `lodos plan` says, as tables.

    python -m bench.plan_table --targets v3-32 h100 --models llama-2-7b llama-3-8b
    python -m bench.plan_table --print

Rank 8 on all linear layers, a batch of 128 rows of 2,048 tokens (256 on as many devices), p=f32,c=bfloat16, FSDP over
all devices; `gradient_checkpointing` and rows at once are decided by what fits, as for a training. Each cell is
compiled in a process of its own, for minutes, and kept in `bench/plan_table.json`, from which the next run goes on. The
compilers have to be importable (the extras `plan` and `cuda`).
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.measure import die_with_parent, version_of
from lodos.files import write_whole
from lodos.plan.accelerators import accelerators_of
from lodos.plan.described import ENVIRONMENT

RESULTS = Path(__file__).with_suffix(".json")
ROWS, LENGTH = 128, 2048

LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": 8192}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 128, "vocab_size": 151936, "num_key_value_heads": 8}


def _sizes(hidden: int, mlp: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    of_all = {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return {**of_all, **others}


MODELS: dict[str, dict[str, Any]] = {
    "llama-2-7b": {**LLAMA, **_sizes(4096, 11008, 32, 32, num_key_value_heads=32, vocab_size=32000)},
    "llama-2-13b": {**LLAMA, **_sizes(5120, 13824, 40, 40, num_key_value_heads=40, vocab_size=32000)},
    "llama-2-70b": {**LLAMA, **_sizes(8192, 28672, 80, 64, num_key_value_heads=8, vocab_size=32000)},
    "llama-3-8b": {**LLAMA, **_sizes(4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=128256)},
    "llama-3-70b": {**LLAMA, **_sizes(8192, 28672, 80, 64, num_key_value_heads=8, vocab_size=128256)},
    "qwen3-0.6b": {**QWEN3, **_sizes(1024, 3072, 28, 16, tie_word_embeddings=True)},
    "qwen3-1.7b": {**QWEN3, **_sizes(2048, 6144, 28, 16, tie_word_embeddings=True)},
    "qwen3-4b": {**QWEN3, **_sizes(2560, 9728, 36, 32, tie_word_embeddings=True)},
    "qwen3-8b": {**QWEN3, **_sizes(4096, 12288, 36, 32)},
    "qwen3-14b": {**QWEN3, **_sizes(5120, 17408, 40, 40)},
    "qwen3-32b": {**QWEN3, **_sizes(5120, 25600, 64, 64)},
}
"""As their repositories' config.json have them."""
TARGETS = [
    "v3-32", "v4-32", "v5e-16", "v5e-64", "v5e-256", "v5p-8", "v5p-128", "v6e-8", "v6e-64", "h100", "h100x8",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model on one slice or host. Bytes are those of a device."""

    checkpointing: str
    rows: int
    """At once on a device."""
    share: int
    """Rows of the batch that are a device's."""
    base: int
    needed: int
    """By the train step."""
    memory: int
    fits: bool
    moved: int
    """In a step."""
    moved_is_compiled: bool
    compiler: str
    seconds: float
    """To decide and to compile, on the machine that did."""


def compiled(model: str, target: str) -> Cell:
    """In a process that compiles for `target`."""
    import time

    from lodos.commands.compiled_plan import compile_step
    from lodos.commands.fitting import fitted
    from lodos.config import TrainArgs
    from lodos.formats.hf import HFCheckpointConverter
    from lodos.plan.described import described_target
    from lodos.target import compiling_for
    from lodos.target import target as target_now
    from lodos.train.config import TrainerConfig

    wanted, started = accelerators_of(target), time.perf_counter()
    with compiling_for(described_target(wanted)), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODELS[model]), encoding="utf-8")
        rows = max(ROWS, target_now().device_count)
        trainer = TrainerConfig(train_batch_size=rows, num_train_steps=1000, mp="p=f32,c=bfloat16")
        config = TrainArgs(
            model_name_or_path=folder, data="rows.jsonl", packing=True, max_tune_length=LENGTH, trainer=trainer
        )
        found = fitted(config, HFCheckpointConverter.from_hf(folder), length=LENGTH, read_text=wanted.has_text)
        assert found.step is not None
        plan = found.plan or compile_step(found.step, read_text=wanted.has_text)
        trainer = found.config.trainer
        return Cell(
            checkpointing=found.config.gradient_checkpointing,
            rows=trainer.microbatch_size // trainer.data_axis_size,
            share=rows // trainer.data_axis_size,
            base=plan.training.base,
            needed=plan.needed,
            memory=wanted.memory_bytes,
            fits=plan.fits(wanted.memory_bytes),
            moved=sum(plan.traffic.values()),
            moved_is_compiled=plan.traffic_is_compiled,
            compiler=_compiler(wanted.extra),
            seconds=round(time.perf_counter() - started, 1),
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where cells are kept")
    parser.add_argument("--print", action="store_true", dest="prints", help="compile nothing, print what is kept")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(dataclasses.asdict(compiled(args.models[0], args.targets[0]))))
        return
    for model, target in [] if args.prints else itertools.product(args.models, args.targets):
        if f"{model} {target}" not in _kept(args.results):
            _compile_in_a_process(model, target, args.results)
    print(tables({name: Cell(**cell) for name, cell in _kept(args.results).items()}))


def tables(cells: Mapping[str, Cell]) -> str:
    """What each device needs, what was decided, and what comes to it in a step, in Markdown; `-` is not compiled."""

    def table(title: str, told: Callable[[Cell], str]) -> str:
        lines = [f"| {title} | {' | '.join(TARGETS)} |", f"| --- |{' ---: |' * len(TARGETS)}"]
        for model in MODELS:
            found = [cells.get(f"{model} {target}") for target in TARGETS]
            lines.append(f"| {model} | {' | '.join('-' if cell is None else told(cell) for cell in found)} |")
        return "\n".join(lines)

    memories = [accelerators_of(target).memory_bytes for target in TARGETS]
    of = f"| *has* | {' | '.join(_gib(memory) for memory in memories)} |"
    needed = table(
        "needed of a device, GiB", lambda cell: _gib(cell.needed) if cell.fits else f"**{_gib(cell.needed)}**"
    )
    decided = table("rows at once", lambda cell: f"{cell.rows} of {cell.share}, {cell.checkpointing}")
    moved = table(
        "moved to a device in a step, GiB", lambda cell: _gib(cell.moved) + ("" if cell.moved_is_compiled else "*")
    )
    return "\n\n".join([f"{needed}\n{of}", decided, moved])


def _gib(count: int) -> str:
    return f"{count / 2**30:,.0f}" if count >= 100 * 2**30 or count == 0 else f"{count / 2**30:.1f}"


def _compiler(extra: str) -> str:
    names = ("libtpu",) if extra == "plan" else ("jax-cuda13-plugin", "jax-cuda12-plugin")
    return next(f"{name} {version}" for name in names if (version := version_of(name)) is not None)


def _kept(results: Path) -> dict[str, Any]:
    """The fields of each cell that was compiled."""
    return json.loads(results.read_text("utf-8")) if results.exists() else {}


def _compile_in_a_process(model: str, target: str, results: Path) -> None:
    """Keeps what was compiled; a compiler that ends with an error is tried again by the next run."""
    command = [sys.executable, "-m", "bench.plan_table", "--here", "--targets", target, "--models", model]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, preexec_fn=die_with_parent
    )
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
    print(f"{model} {target}", *(said or [f"exit status {done.returncode}"]), file=sys.stderr, flush=True)
    if done.returncode == 0:
        cells = {**_kept(results), f"{model} {target}": json.loads(said[0])}
        write_whole(results, json.dumps(cells, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
