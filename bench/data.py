"""How fast rows become tokens, in what memory, and whether a million rows cost what ten thousand do, each.

    python -m bench.data --rows 10000 100000 1000000

makes rows of Alpaca's size, prepares them with lodos and, for comparison, as TRL's SFTTrainer and a plain
`Trainer` script do (`datasets.map`, as many processes). Each measurement is a fresh process with an empty cache; the
memory is the resident memory of that process and its children together, sampled ten times a second. CPU time counts
all processes and their start, and is the number to compare on a machine that is busy with other things.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import PeakMemory, write_report
from lodos.data.tokens.workers import core_count

TEXT = (
    "the of and to a in is that for it as with was on be by this are or from at an which you not have can one all "
    "their has more other when will there use about they some time how these would new into like no many most such "
    "only also over then make people first two between data model example answer question write describe explain "
    "list give following sentence story number energy water health system different important process information "
    "world language learning company computer country history music science student teacher environment climate "
    "technology building recipe ingredients strategy customer product function variable algorithm, temperature. "
    "government economy; culture: development (for example) relationship understanding beautiful creative solution\n"
)
WORDS = TEXT.split(" ")


def write_rows(path: Path, count: int) -> None:
    """JSONL rows in the Alpaca format: the lengths of `alpaca_en_999.json`, about 200 tokens with the prompt."""
    draw = np.random.default_rng(0)
    chances = 1 / np.arange(1, len(WORDS) + 1) ** 0.7  # words are frequent as in a language
    chances /= chances.sum()
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, count, 1000):
            size = min(1000, count - start)
            outputs = np.clip(draw.lognormal(4.3, 0.8, size), 1, 600).astype(int)
            inputs = np.where(draw.random(size) < 0.4, draw.integers(5, 40, size), 0)
            words = iter(draw.choice(WORDS, outputs.sum() + inputs.sum() + 12 * size, p=chances).tolist())
            for i in range(size):
                row = {
                    name: " ".join(next(words) for _ in range(length))
                    for name, length in (("instruction", 12), ("input", inputs[i]), ("output", outputs[i]))
                }
                file.write(json.dumps(row) + "\n")


def prepare_in_lodos(data: str, tokenizer: Any, temporary: str) -> int:
    """Tokens prepared as `lodos train` prepares them."""
    from lodos.data.config import DataArgs
    from lodos.data.prepare import prepare

    prepared = prepare(DataArgs(data=data, data_cache_dir=temporary), tokenizer, seed=0)
    assert "jax" not in sys.modules
    return int(prepared.training.lengths.sum(dtype=np.int64))


def prepare_as_trl(data: str, tokenizer: Any, temporary: str) -> int:
    """Tokens prepared as TRL's SFTTrainer does rows of prompt and completion: a map, row by row, the prompt twice."""
    from datasets import load_dataset

    from lodos.prompting.prompts import ALPACA_PROMPTS

    def tokenize(row: dict[str, str]) -> dict[str, list[int]]:
        prompt = ALPACA_PROMPTS.render(row["instruction"], row["input"])
        prompt_ids = tokenizer(text=prompt)["input_ids"]
        ids = tokenizer(text=prompt + row["output"] + tokenizer.eos_token)["input_ids"]
        return {"input_ids": ids, "completion_mask": [0] * len(prompt_ids) + [1] * (len(ids) - len(prompt_ids))}

    rows: Any = load_dataset("json", data_files=data, split="train", cache_dir=temporary)
    done = rows.map(tokenize, num_proc=core_count(), remove_columns=rows.column_names)
    return _count_tokens(done)


def prepare_as_trainer(data: str, tokenizer: Any, temporary: str) -> int:
    """Tokens prepared as scripts around `Trainer` do: a map in batches, the prompts again for the mask."""
    from datasets import load_dataset

    from lodos.prompting.prompts import ALPACA_PROMPTS

    def tokenize(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        prompts = [ALPACA_PROMPTS.render(*row) for row in zip(rows["instruction"], rows["input"], strict=True)]
        texts = [prompt + out + tokenizer.eos_token for prompt, out in zip(prompts, rows["output"], strict=True)]
        ids, prompt_ids = tokenizer(texts)["input_ids"], tokenizer(prompts)["input_ids"]
        labels = [[-100] * len(head) + whole[len(head) :] for head, whole in zip(prompt_ids, ids, strict=True)]
        return {"input_ids": ids, "labels": labels}

    rows: Any = load_dataset("json", data_files=data, split="train", cache_dir=temporary)
    done = rows.map(tokenize, batched=True, num_proc=core_count(), remove_columns=rows.column_names)
    return _count_tokens(done)


WAYS: dict[str, Callable[[str, Any, str], int]] = {
    "lodos": prepare_in_lodos,
    "TRL": prepare_as_trl,
    "Trainer": prepare_as_trainer,
}


def _count_tokens(rows: Any) -> int:
    return sum(len(chunk.flatten()) for chunk in rows.data.column("input_ids").chunks)


def measure(way: str, data: str, tokenizer_folder: str) -> dict[str, float]:
    """Runs one way in this process."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    peak = PeakMemory()
    with tempfile.TemporaryDirectory() as temporary:
        started = time.monotonic()
        tokens = WAYS[way](data, tokenizer, temporary)
        seconds = time.monotonic() - started
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(of.ru_utime + of.ru_stime for of in used)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": tokens, "peak_mb": peak.stop() / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--tokenizer", help="a Hugging Face folder; by default SmolLM2-135M-Instruct's")
    parser.add_argument("--out", type=Path, default=Path("bench/out/data.json"))
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FILE"), help="one measurement in this process")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], args.measure[1], args.tokenizer)))
        return

    from lodos.demo.base_model import smollm2_folder

    tokenizer = args.tokenizer or str(smollm2_folder())
    results = []
    print(f"{core_count()} cores\n     rows  way      rows/s   tokens/s  CPU us/row  peak MB")
    for count in args.rows:
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "rows.jsonl"
            write_rows(file, count)
            for way in args.ways:
                command = [sys.executable, "-m", "bench.data", "--tokenizer", tokenizer, "--measure", way, str(file)]
                quiet = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=quiet).stdout
                found = json.loads(output.splitlines()[-1])
                seconds = found["seconds"]
                print(
                    f"{count:9,}  {way:7} {count / seconds:7,.0f} {found['tokens'] / seconds:10,.0f} "
                    f"{found['cpu_seconds'] / count * 1e6:11.0f} {found['peak_mb']:8.0f}",
                    flush=True,
                )
                results.append({"rows": count, "way": way, **found})
    write_report(args.out, results=results)


if __name__ == "__main__":
    main()
