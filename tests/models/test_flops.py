"""Counted by hand, and against what the compiler counts."""

from typing import Any

import jax
import pytest

from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.decoder import LmHeadModel
from lodos.models.flops import training_flops
from tiny_training import tiny_config

VOCAB, HIDDEN, LAYERS, RANK = 64, 32, 2, 4
# q and o: 32 x 32; k and v: 16 x 32 under grouped heads; gate, up and down: 48 x 32.
LINEAR = LAYERS * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)
FACTORS = LAYERS * RANK * (2 * (32 + 32) + 2 * (16 + 32) + 3 * (48 + 32))


def model(tied: bool) -> LmHeadModel:
    return LmHeadModel.init(tiny_config(tie_word_embeddings=tied), key=jax.random.key(0))


@pytest.mark.parametrize("tied", [True, False])
def test_lora_counts_four_for_the_frozen_and_six_for_the_factors(tied: bool) -> None:
    adapted = loraize(model(tied), LoraConfig(r=RANK), key=jax.random.key(1))
    flops = training_flops(adapted, lora_trainable_params_filter(adapted))
    assert flops.per_token == 4 * LINEAR + 6 * FACTORS
    assert flops.per_trained_token == 4 * VOCAB * HIDDEN
    assert flops.of(10, 3) == 10 * flops.per_token + 3 * flops.per_trained_token


def test_below_the_lowest_adapted_layer_only_the_forward_pass_counts() -> None:
    config = LoraConfig(r=RANK, target_modules=rf".*layers\.{LAYERS - 1}\..*_proj")
    adapted = loraize(model(tied=True), config, key=jax.random.key(1))
    flops = training_flops(adapted, lora_trainable_params_filter(adapted))
    below = LAYERS - 1
    assert flops.per_token == (2 * below + 4) * LINEAR / LAYERS + 6 * FACTORS / LAYERS
    assert flops.per_trained_token == 4 * VOCAB * HIDDEN


def test_under_an_adapter_of_the_head_alone_only_the_forward_pass_counts() -> None:
    adapted = loraize(model(tied=False), LoraConfig(r=RANK, target_modules=["lm_head"]), key=jax.random.key(1))
    flops = training_flops(adapted, lora_trainable_params_filter(adapted))
    assert flops.per_token == 2 * LINEAR
    assert flops.per_trained_token == 2 * VOCAB * HIDDEN + 6 * RANK * (VOCAB + HIDDEN)


@pytest.mark.parametrize("tied", [True, False])
def test_full_training_counts_six_for_everything(tied: bool) -> None:
    flops = training_flops(model(tied), True)
    assert (flops.per_token, flops.per_trained_token) == (6 * LINEAR, 6 * VOCAB * HIDDEN)


def test_the_forward_share_is_what_the_compiler_counts() -> None:
    plain = model(tied=True)
    tokens = jax.numpy.zeros((1, 16), int)
    cost: Any = jax.jit(lambda model, tokens: model(tokens)).lower(plain, tokens).compile().cost_analysis()
    forward = training_flops(plain, True).of(16, 16) / 3
    # The compiler counts norms, attention and activations too; of a scanned layer it may count one pass alone.
    assert cost["flops"] > forward / LAYERS
