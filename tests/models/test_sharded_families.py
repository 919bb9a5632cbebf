"""Eight devices compute what one computes, for each family: FSDP, and layers split over four of them.

This file is also a script: run with the number of devices, a layout, a file and families, it trains the first case of
each of them and writes losses and factors.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from devices import run_with_devices
from family_cases import FAMILIES, first_case
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.auto import decoder_config
from lodos.models.decoder import LmHeadModel
from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.trainer import Trainer
from lodos.tree import named_leaves
from tiny_training import VOCAB, compute_loss, make_batch

LAYOUTS: dict[str, dict[str, Any]] = {"fsdp": {}, "fsdp x tensor parallel": dict(model_axis_size=4)}
STEPS = 2
ALWAYS = ("phi3", "olmo2", "gemma3")
"""Fused weights; norms over all heads; unlike layers, under another name. The other families are long tests."""


def train(model_type: str, **layout: Any) -> dict[str, Any]:
    from transformers import AutoConfig

    # As many key-value heads as devices.
    shape = first_case(model_type, vocab_size=VOCAB, num_key_value_heads=4)
    config = decoder_config(AutoConfig.for_model(model_type, **shape).to_dict())
    model = loraize(
        LmHeadModel.init(config, key=jax.random.key(0)),
        LoraConfig(r=3, dropout=0.2, init="zero_a"),
        key=jax.random.key(1),
    )
    trainer_config = TrainerConfig(train_batch_size=8, load_checkpoint=False, **layout)
    optimizer = OptimizerConfig(learning_rate=1.0, epsilon=1.0, warmup=0).build(STEPS)
    trainer = Trainer(trainer_config, optimizer, compute_loss, lora_trainable_params_filter(model))
    state = trainer.initial_state(jax.random.key(2), model=model)
    losses = []
    for step in range(STEPS):
        state, metrics = trainer.train_step(state, make_batch(step))
        losses.append(metrics.loss)
    factors = {name: leaf for name, leaf in named_leaves(state.model).items() if ".lora_" in name}
    return {"losses": losses, **factors}


def main(devices: int, layout: str, file: Path, *model_types: str) -> None:
    assert jax.device_count() == devices
    found: dict[str, Any] = {}
    for model_type in model_types:
        numbers = train(model_type, **(LAYOUTS[layout] if devices > 1 else {}))
        found |= {f"{model_type}/{name}": np.asarray(value) for name, value in numbers.items()}
    np.savez(file, **found)


@pytest.fixture(scope="module", params=[pytest.param("fsdp", marks=pytest.mark.long), "fsdp x tensor parallel"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """On one device, and on eight: all families whose tests are asked for."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    asked = {item.callspec.params["model_type"] for item in tests if item.path == request.path}
    families = [model_type for model_type in FAMILIES if model_type in asked]
    files = [tmp_path_factory.mktemp("families") / f"{devices}.npz" for devices in (1, 8)]
    for devices, file in zip((1, 8), files, strict=True):
        run_with_devices(devices, __file__, str(devices), request.param, file, *families)
    return [dict(np.load(file)) for file in files]


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(model_type, marks=() if model_type in ALWAYS else pytest.mark.long) for model_type in FAMILIES],
)
def test_eight_devices_compute_what_one_does(model_type: str, runs: list[dict[str, np.ndarray]]) -> None:
    one, eight = ({name: value for name, value in run.items() if name.startswith(f"{model_type}/")} for run in runs)
    assert one.keys() == eight.keys()
    for name, expected in one.items():
        np.testing.assert_allclose(eight[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
