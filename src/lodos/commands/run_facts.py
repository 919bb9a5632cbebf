"""What a run's model cards tell of it: from its settings, and from its log so far."""

import math
from pathlib import Path
from urllib.parse import urlsplit

from lodos.config import TrainArgs
from lodos.data.reading.sources import DataSource, parse_sources
from lodos.formats.model_card import RunFacts
from lodos.places.place import is_url
from lodos.tracking.jsonl import read_records
from lodos.train.hooks import StepInfo


def run_facts(config: TrainArgs, info: StepInfo) -> RunFacts:
    """The facts after a step; `config` is with everything decided that was left open."""
    sources = parse_sources(config.data)
    records = read_records(config.trainer.run_folder / "log.jsonl")
    loss = info.loss
    return RunFacts(
        step=info.step,
        train_loss=None if math.isnan(loss) else loss,
        evaluations=[(record["step"], float(record["eval/loss"])) for record in records if "eval/loss" in record],
        data=[_name(source) for source in sources],
        hub_datasets=list(dict.fromkeys(source.path for source in sources if source.on_hub)),
        lora=config.lora,
        settings=_settings(config),
    )


def _settings(config: TrainArgs) -> dict[str, str]:
    optimizer, trainer = config.optimizer, config.trainer
    clip = "off" if optimizer.max_grad_norm is None else f"{optimizer.max_grad_norm:g}"
    packed = f" of {config.positions} positions, packed" if config.packing else ""
    return {
        "steps of the run": str(trainer.num_train_steps),
        "batch": f"{trainer.train_batch_size} rows{packed}",
        "longest row": f"{config.longest_row} tokens",
        "trained tokens": "the answers" if config.mask_inputs else "all",
        "optimizer": f"{optimizer.type}, weight decay {optimizer.weight_decay:g}, gradient clipping {clip}",
        "learning rate": f"{optimizer.learning_rate:g}, {optimizer.lr_schedule}, warmup {optimizer.warmup:g}",
        "precision": f"`{trainer.mp}`",
        "seed": str(trainer.seed),
    }


def _name(source: DataSource) -> str:
    """A data set of the hub by its name, a file by the last part of its path."""
    if not source.on_hub:
        path = urlsplit(source.path).path if is_url(source.path) else source.path
        return Path(path).name or "local files"
    parts = [part for part in (source.name, source.split) if part]
    return f"{source.path} ({', '.join(parts)})" if parts else source.path
