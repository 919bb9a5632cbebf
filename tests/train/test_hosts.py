"""Several hosts that each read their share of the batches train what one host trains.

Each host is a process with one CPU device, and they speak to each other as on a real cluster. So this file is also a
script: run with a port, the number of hosts, its own number and a file, it trains and writes the losses and factors.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lodos.data.batching.loader import EvalLoader, TrainLoader
from lodos.data.examples import TokenizedExample
from lodos.formats.peft import peft_state_dict
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.decoder import LmHeadModel
from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.trainer import Trainer

STEPS, VOCAB = 3, 64


def examples() -> list[TokenizedExample]:
    draw = np.random.default_rng(0)
    lengths = draw.integers(4, 20, 30)
    return [
        TokenizedExample(draw.integers(0, VOCAB, n).astype(np.int32), np.arange(n) >= n // 2, "made", i)
        for i, n in enumerate(lengths)
    ]


def train(run_dir: Path) -> dict[str, object]:
    """Losses of a few steps and an evaluation, with the rows of this host."""
    from tiny_training import compute_loss, tiny_config

    config = tiny_config(num_hidden_layers=1, num_attention_heads=2, hidden_size=16, intermediate_size=24)
    model = loraize(LmHeadModel.init(config, key=jax.random.key(0)), LoraConfig(r=2), key=jax.random.key(1))
    trainer_config = TrainerConfig(id="run", run_dir=str(run_dir), num_train_steps=STEPS, train_batch_size=4)
    # Where a gradient is near zero, Adam's usual epsilon of 1e-8 makes a whole step of its rounding error.
    optimizer = OptimizerConfig(learning_rate=0.05, epsilon=1e-3, warmup=0).build(STEPS)
    trainer = Trainer(trainer_config, optimizer, compute_loss, lora_trainable_params_filter(model))
    host = dict(host_index=jax.process_index(), host_count=jax.process_count())
    loader = TrainLoader(examples(), batch_size=4, pad_id=0, seed=3, seq_len=24, **host)
    held_out = EvalLoader(examples()[:6], batch_size=4, pad_id=0, **host)
    state = trainer.initial_state(jax.random.key(2), model=model)
    losses = []
    for step in range(STEPS):
        state, metrics = trainer.train_step(state, loader[step])
        losses.append(float(metrics.loss))
    factors = {name: np.asarray(tensor).tolist() for name, tensor in _on_host(state.model).items()}
    return {"losses": losses, "evaluated": trainer.evaluate(state.model, held_out), "factors": factors}


def _on_host(model: LmHeadModel) -> dict[str, np.ndarray]:
    """The adapter's tensors, gathered from all hosts."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return peft_state_dict(model)
    return peft_state_dict(multihost_utils.process_allgather(model, tiled=True))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, object]]]:
    """By the number of hosts, what each of them found."""
    return {count: _run(count, tmp_path_factory.mktemp(f"{count}-hosts")) for count in (1, 2)}


def _run(count: int, folder: Path) -> list[dict[str, object]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    files = [folder / f"{index}.json" for index in range(count)]
    processes = [
        subprocess.Popen([sys.executable, __file__, str(port), str(count), str(index), str(file)])
        for index, file in enumerate(files)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()
    return [json.loads(file.read_text()) for file in files]


def test_two_hosts_have_the_losses_of_one(results: dict[int, list[dict[str, object]]]) -> None:
    (alone,) = results[1]
    for host in results[2]:
        np.testing.assert_allclose(host["losses"], alone["losses"], rtol=1e-5)
        np.testing.assert_allclose(host["evaluated"], alone["evaluated"], rtol=1e-5)


def test_two_hosts_train_the_factors_of_one(results: dict[int, list[dict[str, object]]]) -> None:
    (alone,) = results[1]
    for host in results[2]:
        assert host["factors"].keys() == alone["factors"].keys()
        for name, tensor in alone["factors"].items():
            np.testing.assert_allclose(host["factors"][name], tensor, rtol=1e-4, atol=1e-6)


def main() -> None:
    port, count, index, file = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if int(count) > 1:
        jax.distributed.initialize(f"localhost:{port}", int(count), int(index))
    Path(file).write_text(json.dumps(train(Path(file).parent / index)))


if __name__ == "__main__":
    main()
