"""The same training in lodos and in torch + PEFT: same base, same initial A and B, same batches, AdamW, float32.

    python -m bench.parity --data src/lodos/demo/data/train.jsonl

prints both losses at every step and how far they and the final factors are apart. Needs torch and peft.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jax
import numpy as np

from bench.measure import write_report
from bench.peers.peft_steps import adamw, load_adapted
from lodos.commands.lora_model import lora_trainer
from lodos.config import TrainArgs
from lodos.data.batching.loader import TrainLoader
from lodos.data.config import DataArgs
from lodos.data.prepare import prepare
from lodos.data.tokens.tokenize import padding_token_id
from lodos.demo.base_model import smollm2_folder
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import peft_state_dict, save_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.lora.transform import loraize
from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.types import LmExample


@dataclass(frozen=True)
class Training:
    """What a run gave."""

    losses: list[float]
    """Of each step's batch, before its update."""
    factors: dict[str, np.ndarray]
    """The final A and B by PEFT's key names."""


@dataclass(frozen=True)
class Comparison:
    """How far two runs are apart."""

    largest_loss_difference: float
    """Over all steps, relative to the loss."""
    largest_factor_difference: float
    """Over all entries of A and B, relative to the largest entry of that tensor."""
    largest_factor_norm_difference: float
    """Over all A and B, the norm of the difference relative to the norm of that tensor."""
    largest_factor_absolute_difference: float
    """Over all entries of A and B."""

    @staticmethod
    def of(ours: Training, theirs: Training) -> "Comparison":
        assert ours.factors.keys() == theirs.factors.keys()
        return Comparison(
            max(abs(a - b) / abs(b) for a, b in zip(ours.losses, theirs.losses, strict=True)),
            max(
                float(np.abs(ours.factors[name] - other).max() / np.abs(other).max())
                for name, other in theirs.factors.items()
            ),
            max(
                float(np.linalg.norm(ours.factors[name] - other) / np.linalg.norm(other))
                for name, other in theirs.factors.items()
            ),
            max(float(np.abs(ours.factors[name] - other).max()) for name, other in theirs.factors.items()),
        )


def train_in_lodos(
    folder: Path,
    lora: LoraConfig,
    optimizer: OptimizerConfig,
    batches: Sequence[LmExample],
    initial_adapter: Path,
    *,
    per_device_parallelism: int = -1,
) -> Training:
    """Trains with lodos and writes the adapter it starts from to `initial_adapter`."""
    converter = HFCheckpointConverter.from_hf(str(folder))
    model = loraize(converter.load_pretrained(), lora, key=jax.random.key(0))
    save_peft_pretrained(model, lora, str(folder), initial_adapter, allow_untrained=True)
    with tempfile.TemporaryDirectory() as run_dir:
        trainer_config = TrainerConfig(
            run_dir=run_dir,
            num_train_steps=len(batches),
            train_batch_size=len(batches[0].tokens),
            per_device_parallelism=per_device_parallelism,
        )
        config = TrainArgs(
            model_name_or_path=str(folder), data="the batches", lora=lora, optimizer=optimizer, trainer=trainer_config
        )
        trainer = lora_trainer(config, model)
        losses: list[float] = []
        trainer.add_hook(lambda info: losses.append(info.loss))
        state = trainer.train(trainer.initial_state(jax.random.key(1), model=model), batches)
    return Training(losses, peft_state_dict(state.model))


def train_in_peft(
    folder: Path, optimizer: OptimizerConfig, batches: Sequence[LmExample], initial_adapter: Path
) -> Training:
    """Trains the adapter at `initial_adapter` with torch and PEFT, as their users would write it."""
    import torch
    from peft import get_peft_model_state_dict

    model = load_adapted(folder, initial_adapter)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    schedule = optimizer.schedule(len(batches))
    update = adamw(parameters, dataclasses.asdict(optimizer))
    losses = []
    for step, batch in enumerate(batches):
        tokens, targets, mask = (
            torch.tensor(np.asarray(x)).long() for x in (batch.tokens, batch.targets, batch.segment_ids)
        )
        weight = torch.tensor(np.asarray(batch.loss_weight))
        logits = model(input_ids=tokens, attention_mask=mask).logits
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        loss = (nll * weight.flatten()).sum() / weight.sum()
        loss.backward()
        if optimizer.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, optimizer.max_grad_norm)
        for group in update.param_groups:
            group["lr"] = float(np.asarray(schedule(step)))
        update.step()
        update.zero_grad()
        losses.append(loss.item())
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return Training(losses, {name: tensor.detach().numpy() for name, tensor in state.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; by default SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--max_length", type=int, default=256)
    parser.add_argument("--epsilon", type=float, default=1e-8, help="of AdamW, on both sides")
    parser.add_argument("--out", type=Path, default=Path("bench/out/parity.json"))
    args = parser.parse_args()

    folder = args.model or smollm2_folder()
    converter = HFCheckpointConverter.from_hf(str(folder))
    examples = prepare(DataArgs(data=args.data, max_tune_length=args.max_length), converter.tokenizer, seed=0).training
    pad_id = padding_token_id(converter.tokenizer)
    loader = TrainLoader(examples, batch_size=args.batch_size, pad_id=pad_id, seed=0)
    batches = list(islice(loader, args.steps))
    lora, optimizer = (
        LoraConfig(r=8, alpha=16.0),
        OptimizerConfig(learning_rate=3e-4, weight_decay=0.01, epsilon=args.epsilon),
    )
    with tempfile.TemporaryDirectory() as temporary:
        initial = Path(temporary) / "adapter"
        ours = train_in_lodos(folder, lora, optimizer, batches, initial)
        theirs = train_in_peft(folder, optimizer, batches, initial)

    print("step  lodos       torch+PEFT  relative difference")
    for step, (a, b) in enumerate(zip(ours.losses, theirs.losses, strict=True), 1):
        print(f"{step:4}  {a:.8f}  {b:.8f}  {abs(a - b) / abs(b):.1e}")
    comparison = Comparison.of(ours, theirs)
    print(f"largest relative difference of a loss:      {comparison.largest_loss_difference:.1e}")
    print(f"largest relative difference of an entry of a final A, B: {comparison.largest_factor_difference:.1e}")
    print(f"largest relative difference in norm of a final A, B:     {comparison.largest_factor_norm_difference:.1e}")
    absolute = comparison.largest_factor_absolute_difference
    print(f"largest difference of an entry of a final A, B, absolute: {absolute:.1e}")
    write_report(args.out, model=str(folder), lodos=ours.losses, peft=theirs.losses, **comparison.__dict__)


if __name__ == "__main__":
    main()
