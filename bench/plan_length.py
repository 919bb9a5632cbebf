"""Memory that each further token of a row takes: of the step's program at two lengths, compiled for a device.

    python -m bench.plan_length --model llama-3-8b --target h100 --lengths 16384 32768

One row at a time, rank 32 on all linear layers, p=f32,c=bfloat16. The compiler has to be importable (the extra `cuda`,
or `plan` for TPUs).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import print_table
from bench.plan_table import MODELS
from lodos.nn.stacked import GradientCheckpointing
from lodos.plan.accelerators import accelerators_of
from lodos.plan.described import ENVIRONMENT

KINDS: tuple[GradientCheckpointing, ...] = ("full", "dots")


def needed(folder: Path, checkpointing: GradientCheckpointing, length: int) -> int:
    """Bytes of the step of one row, for what is compiled for."""
    from lodos.commands.compiled_plan import compile_step, trace_step
    from lodos.config import TrainArgs
    from lodos.formats.hf import HFCheckpointConverter
    from lodos.lora.config import LoraConfig
    from lodos.train.config import TrainerConfig

    config = TrainArgs(
        model_name_or_path=str(folder),
        data="rows.jsonl",
        packing=True,
        max_tune_length=length,
        gradient_checkpointing=checkpointing,
        lora=LoraConfig(r=32),
        trainer=TrainerConfig(
            train_batch_size=1, per_device_parallelism=-1, num_train_steps=1000, mp="p=f32,c=bfloat16"
        ),
    )
    return compile_step(trace_step(config, HFCheckpointConverter.from_hf(str(folder))), read_text=False).needed


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-3-8b", choices=MODELS)
    parser.add_argument("--target", default="h100")
    parser.add_argument("--lengths", nargs=2, type=int, default=[16384, 32768])
    parser.add_argument("--layers", type=int, help="of the model, in place of its own")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not args.here:
        command = [sys.executable, "-m", "bench.plan_length", "--here", *(sys.argv[1:] if argv is None else argv)]
        sys.exit(subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=False).returncode)
    from lodos.plan.described import described_target
    from lodos.target import compiling_for

    rows = []
    model = {**MODELS[args.model], "max_position_embeddings": max(args.lengths)}
    model["num_hidden_layers"] = args.layers or model["num_hidden_layers"]
    with compiling_for(described_target(accelerators_of(args.target))), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(model), encoding="utf-8")
        for kind in KINDS:
            short, long = (needed(Path(folder), kind, length) for length in args.lengths)
            a_token = (long - short) / (args.lengths[1] - args.lengths[0])
            rows.append([kind, *(f"{count / 1e9:.2f}" for count in (short, long)), f"{a_token / 1e3:,.0f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    print_table(["checkpointing", *(f"{length:,} tokens, GB" for length in args.lengths), "KB a token"], rows)


if __name__ == "__main__":
    main()
