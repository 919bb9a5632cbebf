"""lodos, one step at a time: the model, trainer and step of `lodos train`."""

import itertools
import tempfile
import time
from typing import Any

import numpy as np

from bench.contestants import Channel
from bench.peers.random_tokens import IGNORED, RandomTokens


def steps(
    channel: Channel,
    *,
    folder: str,
    tokens: dict[str, Any],
    lora: dict[str, Any],
    optimizer: dict[str, Any],
    initial_adapter: str | None = None,
    layers: int | None = None,
    flags: dict[str, Any] | None = None,
) -> None:
    """Answers `{"first": k, "steps": n}` with the losses of batches k to k+n-1 and the seconds they took.

    Args:
        folder: the base model, in Hugging Face's form.
        tokens: fields of `RandomTokens`.
        lora: fields of `LoraConfig`.
        optimizer: fields of `OptimizerConfig`.
        initial_adapter: where to write the adapter it starts from, for others to start from.
        layers: takes random weights and so many layers instead of the folder's.
        flags: other settings of `lodos train`, by their names.
    """
    from lodos.runtime import prepare_runtime

    prepare_runtime()
    import jax

    from lodos.commands.lora_model import lora_trainer
    from lodos.formats.peft import save_peft_pretrained

    batches = RandomTokens(**tokens)
    with tempfile.TemporaryDirectory() as run_dir:
        config = _config(folder, run_dir, batches, lora, optimizer, flags or {})
        model = _adapted(config, layers)
        if initial_adapter is not None:
            save_peft_pretrained(model, config.lora, folder, initial_adapter, allow_untrained=True)
        trainer = lora_trainer(config, model)
        state = trainer.initial_state(jax.random.key(1), model=model)
        del model
        channel.send()
        for request in channel:
            first = request["first"]
            examples = [example_of(batches, k) for k in range(first, first + request["steps"])]
            metrics = []
            started = time.perf_counter()
            for example in examples:
                state, of_step = trainer.train_step(state, example)
                metrics.append(of_step)
            losses = [float(of_step.loss) for of_step in metrics]
            jax.block_until_ready(state.opt_state)
            channel.send(seconds=time.perf_counter() - started, losses=losses)


def _config(
    folder: str,
    run_dir: str,
    batches: RandomTokens,
    lora: dict[str, Any],
    optimizer: dict[str, Any],
    flags: dict[str, Any],
) -> Any:
    """The settings that `lodos train` would have, its defaults where nothing else is asked for."""
    from lodos.config import TrainArgs
    from lodos.config_parsing import parse_config

    settings = {
        "model_name_or_path": folder,
        "data": "random tokens",
        "trainer.run_dir": run_dir,
        "trainer.id": "bench",
        "trainer.num_train_steps": 1_000_000,
        "trainer.train_batch_size": batches.rows,
        **{f"lora.{name}": value for name, value in lora.items()},
        **{f"optimizer.{name}": value for name, value in optimizer.items()},
        **flags,
    }
    arguments = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in settings.items())
    return parse_config(TrainArgs, list(arguments), prog="bench")


def _adapted(config: Any, layers: int | None) -> Any:
    """The base model with fresh adapters."""
    import jax

    from lodos.commands.lora_model import load_lora_model, model_options
    from lodos.formats.hf import HFCheckpointConverter
    from lodos.jit import named_jit
    from lodos.lora.transform import loraize
    from lodos.models.auto import decoder_config
    from lodos.models.decoder import LmHeadModel

    converter, key = HFCheckpointConverter.from_hf(config.model_name_or_path), jax.random.key(0)
    with config.trainer.device_mesh:
        if layers is None:
            return load_lora_model(config, converter, key=key)
        decoder = decoder_config({**converter.hf_config, "num_hidden_layers": layers})
        dtype = config.trainer.policy.compute_dtype
        model = LmHeadModel.init(decoder, dtype=dtype, key=jax.random.key(2), **model_options(config))
        return named_jit(lambda model: loraize(model, config.lora, key=key), donate_args=True)(model)


def example_of(batches: RandomTokens, k: int) -> Any:
    """Batch k for lodos: each position with the token it predicts; none predicts across examples."""
    from lodos.types import LmExample

    tokens, labels = batches.batch(k)
    segments, positions = batches.segments(k)
    following = [np.roll(x, -1, axis=1) for x in (tokens, labels, segments)]
    trained = (following[1] != IGNORED) & (following[2] == segments)
    trained[:, -1] = False
    arrays: list[Any] = [tokens, following[0], trained, segments, positions]
    dtypes = (np.int32, np.int32, np.float32, np.int32, np.int32)
    return LmExample(*(array.astype(dtype) for array, dtype in zip(arrays, dtypes, strict=True)))
