"""Published models on TPU slices: what `lodos plan` says, as a table.

    python -m bench.plan_table --targets v3-32 v5e-16 --models llama-2-7b llama-3-8b

Each slice is compiled for in a process of its own; libtpu has to be importable there (the extra `plan`). Rank 8 on all
linear layers, a batch of 128 rows of 2,048 tokens, p=f32,c=bfloat16, FSDP over all devices.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lodos.plan.accelerators import accelerators_of
from lodos.plan.described import ENVIRONMENT

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
    "qwen3-8b": {**QWEN3, **_sizes(4096, 12288, 36, 32)},
    "qwen3-32b": {**QWEN3, **_sizes(5120, 25600, 64, 64)},
}
"""As their repositories' config.json have them."""
TARGETS = ["v3-32", "v4-32", "v5e-16", "v5e-64", "v5p-8", "v6e-8", "v6e-64"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model on one slice. Bytes are those of a device."""

    model: str
    target: str
    base: int
    full: int
    """Needed with full checkpointing and all rows of a device at once."""
    fits: bool
    moved: int
    """In a step with full checkpointing."""
    rows: int
    """Of a device's share of the batch."""


def cells(target: str, models: list[str]) -> Iterator[Cell]:
    """In a process that compiles for `target`."""
    from lodos.commands.compiled_plan import compile_step, trace_step
    from lodos.config import TrainArgs
    from lodos.formats.hf import HFCheckpointConverter
    from lodos.plan.described import described_target
    from lodos.target import compiling_for
    from lodos.train.config import TrainerConfig
    from lodos.train.memory import memory_of_device

    wanted = accelerators_of(target)
    with compiling_for(described_target(wanted)), tempfile.TemporaryDirectory() as folder:
        for model in models:
            (Path(folder) / "config.json").write_text(json.dumps(MODELS[model]), encoding="utf-8")
            trainer = TrainerConfig(train_batch_size=128, num_train_steps=1000, mp="p=f32,c=bfloat16")
            config = TrainArgs(
                model_name_or_path=folder,
                data="rows.jsonl",
                packing=True,
                max_tune_length=2048,
                gradient_checkpointing="full",
                trainer=trainer,
            )
            step = trace_step(config, HFCheckpointConverter.from_hf(folder))
            plan = compile_step(step, read_text=wanted.has_text)
            rows = 128 // config.trainer.data_axis_size
            fits, moved = plan.fits(memory_of_device()), sum(plan.traffic.values())
            yield Cell(model, target, step.holds.base, plan.needed, fits, moved, rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        for cell in cells(args.targets[0], args.models):
            print(json.dumps(dataclasses.asdict(cell)), flush=True)
        return
    print("| model | slice | rows a device | base | a device needs | of | fits | moved a step |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |", flush=True)
    for target in args.targets:
        command = [sys.executable, "-m", "bench.plan_table", "--here", "--targets", target, "--models", *args.models]
        memory = accelerators_of(target).memory_bytes
        with subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                cell = Cell(**json.loads(line))
                gib = [f"{count / 2**30:.1f}" for count in (cell.base, cell.full, memory, cell.moved)]
                fits = "yes" if cell.fits else "no"
                print(f"| {cell.model} | {target} | {cell.rows} | {gib[0]} | {gib[1]} | {gib[2]} | {fits} | {gib[3]} |")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
