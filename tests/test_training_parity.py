"""The same weights and batches give the same losses and factors as torch + PEFT, step by step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.parity import Comparison, train_in_lodos, train_in_peft

from lodos.lora.config import LoraConfig
from lodos.train.optim import OptimizerConfig
from lodos.types import LmExample

STEPS = 50
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, weight_decay=0.1, max_grad_norm=0.5, warmup=5)


@pytest.fixture(scope="module")
def batches() -> list[LmExample]:
    """Rows of different lengths, filled up, each with a context of its own that is not trained."""
    rng = np.random.default_rng(0)
    return [_batch(rng, rows=4, length=20) for _ in range(STEPS)]


def _batch(rng: np.random.Generator, *, rows: int, length: int) -> LmExample:
    tokens = rng.integers(4, 256, (rows, length + 1)).astype(np.int32)
    index = np.arange(length)
    lengths, contexts = rng.integers(6, length + 1, (rows, 1)), rng.integers(0, 5, (rows, 1))
    real = index < lengths
    return LmExample(
        tokens=np.where(real, tokens[:, :-1], 0),
        targets=np.where(real, tokens[:, 1:], 0),
        loss_weight=(real & (index >= contexts)).astype(np.float32),
        segment_ids=real.astype(np.int32),
        positions=np.where(real, index, 0).astype(np.int32),
    )


@pytest.mark.parametrize(
    ("model_type", "config", "lora"),
    [
        ("llama", {}, LoraConfig(r=4, alpha=12.0)),
        ("llama", dict(tie_word_embeddings=True, attention_bias=True), LoraConfig(r=4, alpha=3.0, use_rslora=True)),
        (
            "llama",
            {},
            LoraConfig(
                r=4,
                alpha=12.0,
                use_rslora=True,
                rank_pattern={"layers.0.self_attn.q_proj": 2, r".*layers\.[12]\.mlp.*": 6},
                alpha_pattern={"layers.1.mlp.up_proj": 3.0, "o_proj": 20.0},
            ),
        ),
        ("llama", {}, LoraConfig(target_modules=["lm_head", "embed_tokens", "v_proj"], r=4, alpha=2.0)),
        ("qwen3", dict(head_dim=16), LoraConfig(target_modules=["q_proj", "down_proj"], r=3, alpha=6.0)),
    ],
)
def test_fifty_steps_equal_peft(
    make_model: Any, tmp_path: Path, batches: list[LmExample], model_type: str, config: dict[str, Any], lora: LoraConfig
) -> None:
    folder, _ = make_model(model_type, **config)
    ours = train_in_lodos(folder, lora, OPTIMIZER, batches, tmp_path / "initial")
    theirs = train_in_peft(folder, OPTIMIZER, batches, tmp_path / "initial")
    assert len(ours.losses) == STEPS
    comparison = Comparison.of(ours, theirs)
    assert comparison.largest_loss_difference < 1e-4
    assert comparison.largest_factor_difference < 1e-3
    assert any(np.any(tensor) for name, tensor in ours.factors.items() if "lora_B" in name)


def test_accumulated_steps_equal_peft(make_model: Any, tmp_path: Path, batches: list[LmExample]) -> None:
    folder, _ = make_model()
    lora = LoraConfig(r=4, alpha=12.0)
    ours = train_in_lodos(folder, lora, OPTIMIZER, batches, tmp_path / "initial", per_device_parallelism=1)
    theirs = train_in_peft(folder, OPTIMIZER, batches, tmp_path / "initial")
    comparison = Comparison.of(ours, theirs)
    assert comparison.largest_loss_difference < 1e-4
    assert comparison.largest_factor_difference < 1e-3
