"""More tokens: new rows are the mean of the old ones, and what was there stays."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.formats.hf import HFCheckpointConverter
from lodos.jit import named_jit
from lodos.models.vocabulary import resize_vocab
from lodos.nn.linear import Linear


@pytest.fixture(params=[False, True], ids=["separate head", "tied"])
def model(request: pytest.FixtureRequest, make_model: Any) -> Any:
    folder, _ = make_model(tie_word_embeddings=request.param)
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained()


def test_old_tokens_keep_their_logits_and_new_ones_have_the_mean(model: Any, tokens: np.ndarray) -> None:
    rows = model.config.vocab_size
    grown = resize_vocab(model, rows + 3)
    assert grown.config.vocab_size == rows + 3
    before, after = np.asarray(model(tokens)), np.asarray(grown(tokens))
    np.testing.assert_allclose(after[..., :rows], before, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        after[..., rows:], np.broadcast_to(before.mean(-1, keepdims=True), (*before.shape[:2], 3)), atol=1e-4
    )
    assert np.isfinite(np.asarray(grown(jnp.full((1, 4), rows + 2)))).all()


def test_it_never_shrinks(model: Any) -> None:
    for size in (model.config.vocab_size, 5):
        assert resize_vocab(model, size) is model


def test_it_keeps_the_dtype_and_runs_inside_jit(model: Any) -> None:
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, model)
    grown = named_jit(lambda m: resize_vocab(m, m.config.vocab_size + 1), axis_resources={"vocab": "data"})(half)
    assert grown.model.embed_tokens.weight.dtype == jnp.bfloat16
    assert len(grown.model.embed_tokens.weight) == model.config.vocab_size + 1


def test_a_bias_of_the_head_grows_with_it(model: Any) -> None:
    if model.lm_head is None:
        pytest.skip("there is no head of its own")
    head = dataclasses.replace(model.lm_head, bias=jnp.ones(model.config.vocab_size))
    grown = resize_vocab(dataclasses.replace(model, lm_head=head), model.config.vocab_size + 2)
    assert isinstance(grown.lm_head, Linear)
    assert np.asarray(grown.lm_head.bias)[-3:].tolist() == [1.0, 0.0, 0.0]
