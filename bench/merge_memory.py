"""The memory that `lodos merge` takes: models are made on the fly with an adapter each, and merged in processes of
their own.

    python -m bench.merge_memory

prints how far the resident memory of the process rose above what it was after merging a tiny model, beside the sizes of
the model and of the largest file written.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from bench.measure import peak_resident, print_table, write_report
from lodos.commands.merge import MergeArgs, merge
from lodos.demo.base_model import smollm2_folder
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.merged import leaf_of_tensor
from lodos.formats.peft import save_peft_pretrained
from lodos.formats.safetensors_writer import TensorSource, write_sharded
from lodos.formats.tokenizer_files import copy_tokenizer
from lodos.lora.config import LoraConfig
from lodos.lora.transform import lora_layers, loraize, with_factors

TINY = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
ONE_GB = dict(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=8
)
LORA = LoraConfig(r=16, alpha=32.0)


def make_model(folder: Path, shape: dict[str, int], tokenizer: Path, *, vocab_size: int) -> Path:
    """A Llama of random bfloat16 weights, in files of 200 MB, and an adapter of all its linear layers.

    Args:
        tokenizer: the folder of one, which comes along.

    Returns:
        The adapter's folder.
    """
    model = folder / "model"
    model.mkdir(parents=True)
    fields = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocab_size, **shape}
    (model / "config.json").write_text(json.dumps({**fields, "tie_word_embeddings": False}), encoding="utf-8")
    copy_tokenizer(tokenizer, model)
    structure = HFCheckpointConverter.from_hf(str(model)).structure()
    bfloat16 = np.dtype(ml_dtypes.bfloat16)

    def numbers(shape: tuple[int, ...]) -> np.ndarray:
        return (0.02 * np.random.default_rng(shape).standard_normal(shape, np.float32)).astype(bfloat16)

    tensors = {
        name: TensorSource(leaf.shape, bfloat16, lambda part, leaf=leaf: numbers(leaf.shape)[part])
        for name, leaf in leaf_of_tensor(structure).items()
    }
    write_sharded(model, tensors, max_shard_size="200MB", progress=lambda _: None)

    adapted = loraize(structure, LORA, key=jax.random.key(0))
    factors = {name: (A, 0.1 * jax.random.normal(jax.random.key(1), B.shape)) for name, (A, B) in factors_of(adapted)}
    save_peft_pretrained(with_factors(adapted, factors), LORA, str(model), folder / "adapter")
    return folder / "adapter"


def merge_in_a_process(adapter: Path, tiny: Path, folder: Path, max_shard_size: str) -> dict[str, float]:
    """Merges both in a new process: what the second, `adapter`, adds to the memory, in bytes, and its seconds."""
    command = [
        sys.executable,
        "-m",
        "bench.merge_memory",
        "--child",
        *map(str, (tiny, adapter, folder)),
        max_shard_size,
    ]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    merged = [path.stat().st_size for path in (folder / "merged").glob("*.safetensors")]
    return {**json.loads(said), "model": sum(merged), "largest file": max(merged)}


def factors_of(model: Any) -> list[tuple[str, Any]]:
    """The factors (A, B) of each LoRA layer, by its name."""
    return [(name, layer.factors) for name, layer in lora_layers(model).items()]


def _child(tiny: str, adapter: str, folder: str, max_shard_size: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    merge(MergeArgs(tiny, f"{folder}/tiny"))  # imports, and what is made once
    before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    started = time.perf_counter()
    merge(MergeArgs(adapter, f"{folder}/merged", max_shard_size=max_shard_size))
    print(json.dumps({"growth": peak_resident() - before, "seconds": time.perf_counter() - started}))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        _child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/out/merge_memory.json"))
    args = parser.parse_args()
    tokenizer = smollm2_folder()
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny = make_model(folder / "tiny", TINY, tokenizer, vocab_size=49152)
        large = make_model(folder / "large", ONE_GB, tokenizer, vocab_size=49152)
        for size in ("100MB", "200MB", "5GB"):
            found[size] = merge_in_a_process(large, tiny, folder / "out", size)
    columns = ("model", "largest file", "growth")
    rows = [
        [size, *(f"{row[column] / 1e6:.0f} MB" for column in columns), f"{row['seconds']:.0f} s"]
        for size, row in found.items()
    ]
    print_table(["max_shard_size", *columns, "time"], rows)
    write_report(args.out, by_max_shard_size=found)


if __name__ == "__main__":
    main()
