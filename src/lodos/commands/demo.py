"""`lodos demo`: the main job on a small model and a small data set, before and after, in a few minutes.

It is `lodos train` with a config of its own, between two rounds of the same held-out questions. The second round
is answered by what was read back from disk.
"""

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lodos.commands.train import TrainResult, train
from lodos.config import TrainArgs
from lodos.config_parsing import parse_config
from lodos.data.reading.rows import Row
from lodos.data.reading.sources import read_rows
from lodos.demo.base_model import smollm2_folder
from lodos.demo.task import HELD_OUT_FILE, PROMPTS, TRAIN_FILE
from lodos.formats.folder_contents import adapter_folder
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained
from lodos.infer.text import generate_texts
from lodos.lora.config import LoraConfig
from lodos.models.decoder import LmHeadModel
from lodos.prompting.description import Prompting, read_prompting
from lodos.prompting.prompts import read_prompts
from lodos.train.config import CheckpointerConfig, TrainerConfig
from lodos.train.optim import OptimizerConfig

SHOWN = 5
"""Rows of the table."""
MAX_ANSWER_TOKENS = 32
LARGEST_DIFFERENCE = 1e-3
"""Of merged and adapted logits, as a share of the largest; float32 rounding is a hundredth of it."""


@dataclasses.dataclass
class DemoArgs:
    """Fine-tune SmolLM2-135M to turn requests for a table into JSON, and show it before and after."""

    run_dir: str = "runs"
    """Folder for the run: its log, adapter and merged model."""
    num_train_steps: int | None = None
    """Fewer steps for a quicker, worse result; by default 1.2 passes over the 1,000 training rows."""


def main(argv: list[str]) -> int:
    """Runs the demo; 1 if the merged model on disk does not compute what the adapter does, 130 if interrupted."""
    args = parse_config(DemoArgs, argv, prog="lodos demo", description=DemoArgs.__doc__ or "")
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    base_folder = smollm2_folder()
    config = _config(args, base_folder)
    rows = read_rows(HELD_OUT_FILE)
    converter = HFCheckpointConverter.from_hf(str(base_folder))

    console.print(f"\n[bold]1. Before[/]: the base model answers {len(rows)} held-out requests.")
    as_trained = Prompting("alpaca", prompts=read_prompts(PROMPTS))
    before = _answers(converter, converter.load_pretrained(scan_layers=False), rows, as_trained)

    console.print("[bold]2. Fine-tuning[/] with LoRA on 1,000 other requests.")
    result = train(config)
    if result.interrupted:
        console.print(f"Interrupted at step {result.step}; the adapter so far is {result.adapter}.")
        return 130

    console.print("[bold]3. After[/]: adapter and merged model are read back from disk and answer the same requests.")
    base = converter.load_pretrained(scan_layers=False)
    adapted, _ = load_peft_pretrained(base, result.adapter)
    after = _answers(converter, adapted, rows, read_prompting(adapter_folder(str(result.adapter))))
    difference = _merged_difference(converter, adapted, result, rows)

    _print_table(rows, before, after)
    _print_outcome(result, difference, time.monotonic() - started)
    return 0 if difference <= LARGEST_DIFFERENCE else 1


def _config(args: DemoArgs, base_folder: Path) -> TrainArgs:
    return TrainArgs(
        model_name_or_path=str(base_folder),
        data=str(TRAIN_FILE),
        prompts=PROMPTS,
        packing=True,
        seq_len=256,
        max_tune_length=256,
        lora=LoraConfig(r=8, alpha=16.0),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=5),
        trainer=TrainerConfig(
            id=time.strftime("demo-%Y%m%d-%H%M%S"),
            run_dir=args.run_dir,
            num_train_steps=args.num_train_steps,
            num_epochs=1.2 if args.num_train_steps is None else None,
            train_batch_size=3,  # with some 5 requests to a row
            checkpointer=CheckpointerConfig(save_interval=1000),
        ),
        save_merged=True,
    )


def _answers(
    converter: HFCheckpointConverter, model: LmHeadModel, rows: list[Row], prompting: Prompting | None
) -> list[str]:
    """The first line of the model's answer to each row."""
    assert prompting is not None
    requests = [row.fields["instruction"] for row in rows]
    texts = generate_texts(model, converter.tokenizer, requests, max_new_tokens=MAX_ANSWER_TOKENS, prompting=prompting)
    return [text.strip() for text in texts]


def _prompt(row: Row) -> str:
    return read_prompts(PROMPTS).render(row.fields["instruction"], row.fields.get("input") or "")


def _merged_difference(
    converter: HFCheckpointConverter, adapted: LmHeadModel, result: TrainResult, rows: list[Row]
) -> float:
    """The largest difference of merged and adapted logits on a held-out row, as a share of the largest logit."""
    assert result.merged is not None
    merged = HFCheckpointConverter.from_hf(str(result.merged)).load_pretrained(scan_layers=False)
    tokens = jnp.asarray(converter.tokenizer([_prompt(rows[0]) + rows[0].fields["output"]])["input_ids"])
    expected, found = np.asarray(adapted(tokens)), np.asarray(merged(tokens))
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def _is_exact(answer: str, row: Row) -> bool:
    """Whether an answer is the expected JSON and nothing else."""
    try:
        return json.loads(answer) == json.loads(row.fields["output"])
    except json.JSONDecodeError:
        return False


def _print_table(rows: list[Row], before: list[str], after: list[str]) -> None:
    table = Table(title="Held-out requests", show_lines=True)
    table.add_column("request", ratio=4)
    table.add_column("before", ratio=4)
    table.add_column("after", ratio=5, overflow="fold")
    for row, old, new in list(zip(rows, before, after, strict=True))[:SHOWN]:
        mark = "[green]yes[/]" if _is_exact(new, row) else "[red]no[/]"
        table.add_row(escape(row.fields["instruction"]), escape(_shortened(old)), f"{escape(new)} {mark}")
    rates = [
        f"{sum(_is_exact(a, r) for a, r in zip(answers, rows, strict=True)) / len(rows):.1%}"
        for answers in (before, after)
    ]
    table.add_section()
    table.add_row(f"[bold]exact match on {len(rows)} rows[/]", f"[bold]{rates[0]}[/]", f"[bold]{rates[1]}[/]")
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def _shortened(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + " ..."


def _print_outcome(result: TrainResult, difference: float, seconds: float) -> None:
    print(f"Adapter:       {result.adapter}   (PEFT loads it)")
    print(f"Merged model:  {result.merged}   (Transformers loads it)")
    print(f"Merged and adapted logits differ by {difference:.1e} of the largest. {seconds / 60:.1f} minutes in all.")
    print("\nNext:")
    print(f"  lodos generate --adapter {shlex.quote(str(result.adapter))} \\")
    print("    --prompt 'We need a table for six, Sunday at 8:15 pm, name is Lindqvist'")
