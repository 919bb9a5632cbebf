"""The one that is no contestant: it makes the adapter all start from and measures the held-out loss of all alike."""

import dataclasses
from pathlib import Path
from typing import Any

from bench.contestants import Channel

EVAL_ROWS = 4
"""Held-out rows computed at once."""


def judge(channel: Channel, *, arguments: list[str], held_out: str) -> None:
    """Answers

        {"initial_adapter": path}     writes the adapter that `lodos train` starts from
        {"examples": n}               how many examples each of its first n steps has
        {"held_out_loss": path}       the loss of an adapter's model on the held-out rows, in nats a token; for null
                                      the base model's

    Args:
        arguments: of the `lodos train` that takes part.
        held_out: a file of rows.
    """
    from lodos.commands.loaders import training_loader
    from lodos.config import TrainArgs
    from lodos.config_parsing import parse_config
    from lodos.data.prepare import prepare
    from lodos.formats.hf import HFCheckpointConverter

    config = parse_config(TrainArgs, arguments, prog="bench")
    converter = HFCheckpointConverter.from_hf(config.model_name_or_path)
    loader = training_loader(config, converter, prepare(config, converter.tokenizer, seed=config.trainer.seed).training)
    channel.send()
    for request in channel:
        if "initial_adapter" in request:
            _write_initial(config, converter, Path(request["initial_adapter"]))
            channel.send()
        elif "examples" in request:
            channel.send(examples=[sum(map(len, loader.rows(k))) for k in range(request["examples"])])
        else:
            channel.send(loss=_held_out_loss(config, converter, Path(held_out), request["held_out_loss"]))


def _write_initial(config: Any, converter: Any, path: Path) -> None:
    """What `lodos train` makes of its seed; `tests/bench/test_epoch.py` compares the two."""
    import jax

    from lodos.formats.peft import save_peft_pretrained
    from lodos.lora.transform import loraize

    lora_key, _ = jax.random.split(jax.random.key(config.trainer.seed))
    model = loraize(converter.load_pretrained(), config.lora, key=lora_key)
    save_peft_pretrained(model, config.lora, config.model_name_or_path, path, allow_untrained=True)


def _held_out_loss(config: Any, converter: Any, rows: Path, adapter: str | None) -> float:
    from lodos.commands.lora_model import lora_trainer
    from lodos.data.batching.loader import EvalLoader
    from lodos.data.prepare import prepare
    from lodos.data.tokens.tokenize import padding_token_id
    from lodos.formats.peft import load_peft_pretrained

    of_rows = dataclasses.replace(config, data=str(rows), packing=False, seq_len=None)
    examples = prepare(of_rows, converter.tokenizer, seed=0).training
    pad_id = padding_token_id(converter.tokenizer, converter.config.vocab_size)
    loader = EvalLoader(examples, batch_size=EVAL_ROWS, pad_id=pad_id)
    model = converter.load_pretrained()
    if adapter is not None:
        model, _ = load_peft_pretrained(model, adapter)
    trainer = dataclasses.replace(config.trainer, num_train_steps=1, num_epochs=None)
    return lora_trainer(dataclasses.replace(config, trainer=trainer), model).evaluate(model, loader)
