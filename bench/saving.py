"""What a checkpoint costs: for how long a step is held up, and how much slower the step is behind which it is written.

    python -m bench.saving

SmolLM2-135M on all linear layers, four rows of 256 random tokens a step. Steps without a checkpoint and steps with one
under way come in turns; the medians are told. `share` is what is lost at the default policy, one in 100 steps: the time
that the loop is held up, and what the step that follows takes longer than others.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from typing import Any

from bench.measure import print_table
from bench.plan_memory import random_batch, run_config

DEFAULT_INTERVAL = 100


def measure(rank: int, repeats: int, folder: str) -> list[str]:
    """A line of the table."""
    import jax

    from lodos.commands.lora_model import load_lora_model, lora_structure, lora_trainer
    from lodos.train.checkpoint import Checkpointer

    config, converter = run_config({"rows": 4, "length": 256, "checkpointing": "dots", "r": rank, "at_once": -1})
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, run_dir=folder))
    trainer = lora_trainer(config, lora_structure(config, converter))
    with config.trainer.device_mesh:
        state = trainer.initial_state(
            jax.random.key(0), model=load_lora_model(config, converter, key=jax.random.key(1))
        )
        batch = random_batch(converter.vocab_size, (4, 256))
        checkpointer = Checkpointer(config.trainer.checkpoint_folder / str(rank), keep=2)

        def step() -> float:
            nonlocal state
            began = time.perf_counter()
            state, metrics = trainer.train_step(state, batch)
            jax.block_until_ready(metrics.loss)
            return time.perf_counter() - began

        for _ in range(2):  # compiled, and warm
            step()
        quiet, busy, held, whole = [], [], [], []
        for _ in range(repeats):
            quiet.append(step())
            began = time.perf_counter()
            checkpointer.save(state)
            held.append(time.perf_counter() - began)
            busy.append(step())
            checkpointer.wait()
            whole.append(time.perf_counter() - began)
            quiet.append(step())
    files = sum(
        file.stat().st_size
        for file in (config.trainer.checkpoint_folder / str(rank) / str(checkpointer.latest_step())).rglob("*")
        if file.is_file()
    )
    a_step, longer = statistics.median(quiet), max(0.0, statistics.median(busy) - statistics.median(quiet))
    lost = (statistics.median(held) + longer) / (DEFAULT_INTERVAL * a_step)
    seconds = [statistics.median(numbers) for numbers in (held, whole)]
    return [
        f"r={rank}",
        f"{files / 1e6:.1f}",
        f"{a_step:.2f}",
        *(f"{number:.3f}" for number in seconds),
        f"{longer:.3f}",
        f"{lost:.2%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rank", type=int, nargs="+", default=[8, 64])
    args: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = [measure(rank, args.repeats, folder) for rank in args.rank]
    print_table(
        ["adapter", "MB", "a step, s", "held up, s", "until whole, s", "next step longer by, s", "share"], lines
    )


if __name__ == "__main__":
    main()
