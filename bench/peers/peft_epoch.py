"""transformers' Trainer with PEFT on torch, as alpaca-lora and many scripts after it use it, some steps at a time.

How a micro-batch's rows are put together is one of

    random      drawn at random and padded to the longest, as alpaca-lora does
    grouped     rows of like length together (`train_sampling_strategy="group_by_length"`), padded to the longest
    flattened   drawn at random and put one after another into a single row without padding
                (`DataCollatorWithFlattening`), which transformers masks by the positions
"""

import time
from pathlib import Path
from typing import Any

from bench.contestants import Channel
from bench.peers.alpaca_rows import tokenized_rows
from bench.peers.peft_steps import load_adapted
from bench.peers.random_tokens import IGNORED


def epoch(
    channel: Channel,
    *,
    folder: str,
    data: str,
    max_length: int,
    optimizer: dict[str, Any],
    initial_adapter: str,
    adapter: str,
    arrangement: str,
    micro_batch: int,
    accumulation: int,
) -> None:
    """Answers `{"steps": n}` with the steps done, fewer than n at the epoch's end, and their seconds. With the last
    step, the adapter is written to `adapter`."""
    import torch
    from transformers import (
        DataCollatorForSeq2Seq,
        DataCollatorWithFlattening,
        PreTrainedTokenizerFast,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Turns(TrainerCallback):
        """Waits to be asked before steps, and answers after them."""

        asked = done = 0
        started = ended = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if self.asked == 0:
                request = channel.receive()
                self.asked, self.done = request["steps"] if request else 0, 0
                self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.done += 1
            self.ended = time.perf_counter()
            if self.done == self.asked:
                self.answer()

        def answer(self) -> None:
            channel.send(steps=self.done, seconds=self.ended - self.started)
            self.asked = self.done = 0

    work = Path(adapter).parent
    rows: Any = _rows(tokenized_rows(Path(folder), Path(data), max_length=max_length, cache=work / "tokens"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if arrangement == "flattened":
        collator: Any = DataCollatorWithFlattening()
    else:
        collator = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8, return_tensors="pt", padding=True)
    model = load_adapted(Path(folder), Path(initial_adapter))
    model.config.use_cache = False  # as alpaca-lora does; and with a cache, positions would not be taken for a mask
    arguments = TrainingArguments(
        output_dir=str(work / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=optimizer["learning_rate"],
        adam_beta1=optimizer["beta1"],
        adam_beta2=optimizer["beta2"],
        adam_epsilon=optimizer["epsilon"],
        weight_decay=optimizer["weight_decay"],
        max_grad_norm=optimizer["max_grad_norm"],
        lr_scheduler_type="cosine",
        warmup_steps=0,
        train_sampling_strategy="group_by_length" if arrangement == "grouped" else "random",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    turns = Turns()
    trainer = Trainer(model, arguments, collator, rows, callbacks=[turns])
    channel.send(threads=torch.get_num_threads())
    trainer.train()
    model.save_pretrained(adapter)
    if turns.done:
        turns.answer()
    for _ in channel:
        channel.send(steps=0, seconds=0.0)


def _rows(examples: Any) -> list[dict[str, list[int]]]:
    """As a tokenizer's output with labels, the rows without anything to predict left out."""
    rows = []
    for example in examples:
        ids, trained = (list(map(int, x)) for x in (example.ids, example.trained))
        labels = [token if learned else IGNORED for token, learned in zip(ids, trained, strict=True)]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return rows
