"""What `lodos plan` foretells of memory against what a training takes, on this machine's CPU.

    python -m bench.plan_memory

Each setting is planned in one process, which leaves the compiled step in a cache, and trained for two steps in
another, with random tokens; the second measures how far its resident memory rises from when the program is there and
the weights are not.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import peak_resident, print_table

STEPS = 2
SETTINGS: list[dict[str, Any]] = [
    {"rows": rows, "length": length, "checkpointing": checkpointing, "r": r, "at_once": at_once}
    for (rows, length), checkpointing, r, at_once in [
        ((4, 512), "dots", 8, -1),
        ((4, 512), "full", 8, -1),
        ((4, 512), "none", 8, -1),
        ((4, 512), "dots", 64, -1),
        ((8, 512), "dots", 8, 2),
        ((2, 2048), "dots", 8, -1),
        ((2, 2048), "full", 8, 1),
        ((16, 256), "dots", 8, -1),
    ]
]


def planned(setting: dict[str, Any]) -> int:
    """Bytes of the step."""
    from lodos.commands.compiled_plan import compile_step, trace_step

    config, converter = run_config(setting)
    return compile_step(trace_step(config, converter), read_text=False).needed


def trained(setting: dict[str, Any]) -> int:
    """Bytes that a training's resident memory rises by."""
    import jax
    import numpy as np

    from lodos.commands.loaders import blank_batch
    from lodos.commands.lora_model import load_lora_model, lora_structure, lora_trainer

    config, converter = run_config(setting)
    key = jax.random.key(0)
    shapes = lora_structure(config, converter)
    trainer = lora_trainer(config, shapes)
    trainer.compile_ahead(key, model=shapes, batch=blank_batch(config, setting["length"]))
    trainer.wait_until_compiled()
    before = resident()
    model = load_lora_model(config, converter, key=key)
    state = trainer.initial_state(key, model=model)
    del model
    shape = (setting["rows"], setting["length"])
    for step in range(STEPS):
        batch = random_batch(converter.vocab_size, shape, step)
        state, metrics = trainer.train_step(state, batch)
        assert np.isfinite(float(metrics.loss))
    return peak_resident() - before


def resident() -> int:
    """Bytes of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for setting in SETTINGS:
            foretold, measured = planned_and_trained(setting, Path(cache))
            told = ", ".join(f"{name} {value}" for name, value in setting.items())
            rows.append([told, f"{foretold / 1e6:,.0f}", f"{measured / 1e6:,.0f}", f"{measured / foretold:.2f}"])
            print(rows[-1], flush=True)
    print_table(["setting", "planned, MB", "measured, MB", "ratio"], rows)


def random_batch(vocab_size: int, shape: tuple[int, int], seed: int = 0) -> Any:
    """Rows of random tokens, all trained."""
    import numpy as np

    from lodos.types import LmExample

    tokens = np.random.default_rng(seed).integers(0, vocab_size, shape, dtype=np.int32)
    positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    ones = np.ones(shape, np.int32)
    fields: list[Any] = [tokens, np.roll(tokens, -1, 1), ones.astype(np.float32), ones, positions]
    return LmExample(*fields)


def run_config(setting: dict[str, Any]) -> Any:
    """The settings of a training, of SmolLM2 unless another model's folder is named, and its converter."""
    from lodos.config import TrainArgs
    from lodos.demo.base_model import smollm2_folder
    from lodos.formats.hf import HFCheckpointConverter
    from lodos.lora.config import LoraConfig
    from lodos.train.config import TrainerConfig

    trainer = TrainerConfig(
        id="run",
        run_dir=tempfile.gettempdir(),
        num_train_steps=STEPS,
        train_batch_size=setting["rows"],
        per_device_parallelism=setting["at_once"],
        load_checkpoint=False,
    )
    folder = setting.get("model") or str(smollm2_folder())
    config = TrainArgs(
        model_name_or_path=folder,
        data="rows.jsonl",
        packing=True,
        max_tune_length=setting["length"],
        gradient_checkpointing=setting["checkpointing"],
        lora=LoraConfig(r=setting["r"]),
        trainer=trainer,
    )
    return config, HFCheckpointConverter.from_hf(folder)


def planned_and_trained(setting: dict[str, Any], cache: Path) -> tuple[int, int]:
    """Bytes, of a process each."""
    return _apart("planned", setting, cache), _apart("trained", setting, cache)


def _apart(what: str, setting: dict[str, Any], cache: Path) -> int:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # What is freed goes back at once, so that what is resident is what is held.
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_ARENA_MAX": "1",
    }
    command = [sys.executable, "-m", "bench.plan_memory", what, json.dumps(setting)]
    return int(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print({"planned": planned, "trained": trained}[sys.argv[1]](json.loads(sys.argv[2])))
    else:
        main()
