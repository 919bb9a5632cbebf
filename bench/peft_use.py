"""A finished adapter in other hands: PEFT's held-out loss with it, and the merged model's logits in each dtype.

    python -m bench.peft_use --adapter runs/alpaca/peft/best --data src/lodos/demo/data/train.jsonl

The held-out rows are those of `bench/alpaca.yaml`. Needs torch and peft.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lodos.data.batching.batches import make_batch
from lodos.data.config import DataArgs
from lodos.data.prepare import prepare
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained, read_adapter_config
from lodos.types import LmExample

HELD_OUT, MAX_LENGTH, SEED = 99, 769, 0
"""As in bench/alpaca.yaml."""
COMPARED_ROWS = 8
"""Held-out rows whose logits are compared."""


def torch_loss(model: Any, batches: list[LmExample]) -> float:
    """The loss of a torch model over all trained tokens, in nats a token."""
    import torch

    total = weight = 0.0
    with torch.no_grad():
        for batch in batches:
            logits = torch_logits(model, batch)
            targets = torch.tensor(np.asarray(batch.targets)).long()
            nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            trained = torch.tensor(np.asarray(batch.loss_weight)).flatten()
            total += float((nll * trained).sum())
            weight += float(trained.sum())
    return total / weight


def torch_logits(model: Any, batch: LmExample) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(np.asarray(batch.tokens)).long()).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--data", required=True)
    args = parser.parse_args()

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = read_adapter_config(args.adapter).base_model_name_or_path
    assert base is not None
    converter = HFCheckpointConverter.from_hf(base)
    data = DataArgs(data=args.data, validation=HELD_OUT, max_tune_length=MAX_LENGTH)
    held_out = prepare(data, converter.tokenizer, seed=SEED).held_out
    # One row a batch, so that nothing is filler and torch needs no mask.
    batches = [make_batch([[example]], pad_id=0, length=len(example.ids) - 1, batch_size=1) for example in held_out]

    torch_base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    print(f"held-out loss of the base model in torch:    {torch_loss(torch_base, batches):.4f}", flush=True)
    adapted = PeftModel.from_pretrained(torch_base, str(args.adapter)).eval()
    print(f"held-out loss with the adapter in PEFT:      {torch_loss(adapted, batches):.4f}", flush=True)

    size = sum(file.stat().st_size for file in args.adapter.glob("adapter_model.safetensors"))
    print(f"adapter_model.safetensors:                   {size / 1e6:.2f} MB")
    expected = [torch_logits(adapted, batch).numpy() for batch in batches[:COMPARED_ROWS]]
    model, _ = load_peft_pretrained(converter.load_pretrained(), args.adapter)
    for dtype in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as folder:
            converter.save_pretrained(model, Path(folder) / "merged", dtype=dtype)
            merged = AutoModelForCausalLM.from_pretrained(Path(folder) / "merged", dtype=torch.float32).eval()
            found = [torch_logits(merged, batch).numpy() for batch in batches[:COMPARED_ROWS]]
        largest = max(float(np.abs(a).max()) for a in expected)
        error = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)) / largest
        same = [(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in zip(expected, found, strict=True)]
        print(
            f"merged, in {dtype}: largest logit error {error:.1e} of the largest logit, top token the same for "
            f"{np.mean(np.concatenate(same)):.2%}"
        )


if __name__ == "__main__":
    main()
