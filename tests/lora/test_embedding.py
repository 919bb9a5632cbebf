"""LoRA of the embedding and the output head, with ranks of their own: fresh, generating and merged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.formats.hf import HFCheckpointConverter
from lodos.infer.generate import generate
from lodos.lora.config import LoraConfig
from lodos.lora.embedding import LoraEmbedding
from lodos.lora.transform import adapted_names, lora_layers, loraize, merge_lora_modules, with_factors
from lodos.tree import cast_floating

CONFIG = LoraConfig(
    ["embed_tokens", "lm_head", "q_proj", "down_proj"],
    r=4,
    alpha=6.0,
    dropout=0.3,
    rank_pattern={"embed_tokens": 3, "layers.1.mlp.down_proj": 7},
    alpha_pattern={"layers.0.self_attn.q_proj": 2.0, "lm_head": 9.0},
)


@pytest.fixture(scope="module")
def base(make_model: Any) -> Any:
    return HFCheckpointConverter.from_hf(str(make_model()[0])).load_pretrained()


@pytest.fixture(scope="module")
def trained(base: Any) -> Any:
    model = loraize(base, CONFIG, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    factors = {
        name: tuple(jnp.asarray(rng.normal(size=x.shape, scale=0.15), jnp.float32) for x in layer.factors)
        for name, layer in lora_layers(model).items()
    }
    return with_factors(model, factors)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_fresh_adapter_changes_nothing_bit_for_bit(dtype: Any, base: Any, tokens: np.ndarray) -> None:
    base = cast_floating(base, dtype)
    model = loraize(base, CONFIG, key=jax.random.key(0))
    expected = base(jnp.asarray(tokens))
    for key in (None, jax.random.key(1)):
        found = model(jnp.asarray(tokens), key=key)
        assert found.dtype == dtype
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


def test_the_embedding_starts_as_pefts_with_a_zero(base: Any) -> None:
    layer = loraize(base, CONFIG, key=jax.random.key(0)).model.embed_tokens
    assert isinstance(layer, LoraEmbedding)
    assert not np.any(layer.lora_embedding_A)
    assert layer.lora_embedding_A.shape == (3, base.config.vocab_size)
    assert float(jnp.std(layer.lora_embedding_B)) == pytest.approx(1, rel=0.2)


def test_the_merged_model_computes_the_same(trained: Any, base: Any, tokens: np.ndarray) -> None:
    expected = np.asarray(trained(jnp.asarray(tokens)))
    merged = merge_lora_modules(trained)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    np.testing.assert_allclose(merged(jnp.asarray(tokens)), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected - np.asarray(base(jnp.asarray(tokens)))).max() > 0.1


def test_generating_with_a_cache_takes_the_tokens_of_the_full_pass(trained: Any, base: Any) -> None:
    prompts, new = [[5, 9, 30], [7, 8, 11, 40, 41]], 6
    found = generate(trained, prompts, max_new_tokens=new, eos_token_ids=[])
    for prompt, answer in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(new):
            ids.append(int(jnp.argmax(trained(jnp.asarray([ids]))[0, -1])))
        assert answer == ids[len(prompt) :]
    assert found != generate(base, prompts, max_new_tokens=new, eos_token_ids=[])


def test_all_linear_leaves_both_out(base: Any) -> None:
    assert (
        not {"lm_head", "model.embed_tokens"} & adapted_names(loraize(base, LoraConfig(), key=jax.random.key(0))).keys()
    )
