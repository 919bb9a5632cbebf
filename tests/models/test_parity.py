"""The decoder computes what transformers computes, on random models of every kind and shape.

Norms and biases are random (a forgotten one would be invisible at one and zero), heads are wider or narrower
than hidden_size / heads, and rope variants are asked for positions past their original length.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.formats.hf import HFCheckpointConverter

pytest.importorskip("torch")

MakeModel = Callable[..., tuple[Path, Any]]

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, grouped heads": ("llama", {}),
    "llama, one key-value head": ("llama", {"num_key_value_heads": 1}),
    "llama, all heads": ("llama", {"num_key_value_heads": 4}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("llama", {"head_dim": 16}),
    "llama, three heads, gelu": (
        "llama",
        {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_act": "gelu"},
    ),
    "llama, epsilon": ("llama", {"rms_norm_eps": 0.1}),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "mistral, no window": ("mistral", {"sliding_window": None, "head_dim": 4}),
    "qwen2": ("qwen2", {}),
    "qwen2, window on the upper layers": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, biases, tied": ("qwen3", {"head_dim": 6, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3, window": (
        "qwen3",
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    ),
}

# Each is asked for 24 positions; those with an original length have one of 8.
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 8},
    "yarn, betas": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 8,
        "beta_fast": 1.0,
        "beta_slow": 0.02,
    },
    "yarn, betas, not truncated": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 8,
        "beta_fast": 1.0,
        "beta_slow": 0.02,
        "truncate": False,
    },
    "yarn, mscale": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 8,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
    },
    "yarn, attention_factor": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 8,
        "attention_factor": 0.6,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
        "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0],
        "factor": 3.0,
        "original_max_position_embeddings": 8,
    },
}
THETA = 500000.0


def relative_error(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def torch_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.float().numpy()


def our_logits(folder: Path, tokens: np.ndarray, **load: Any) -> jax.Array:
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained(**load)(jnp.asarray(tokens))


def rope_config(rope: dict[str, Any]) -> dict[str, Any]:
    # For `dynamic` the original length is max_position_embeddings itself.
    longest = 8 if rope["rope_type"] == "dynamic" else 64
    return {
        "head_dim": 16,
        "max_position_embeddings": longest,
        "rope_parameters": {**rope, "rope_theta": THETA},
    }


def as_transformers_4(folder: Path) -> None:
    """Rewrites config.json as transformers 4 did: `rope_theta` beside `rope_scaling`, `torch_dtype`."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(make_model: MakeModel, tokens: np.ndarray, shape: str) -> None:
    model_type, config = SHAPES[shape]
    folder, theirs = make_model(model_type, **config)
    reference = torch_logits(theirs, tokens)
    assert relative_error(our_logits(folder, tokens), reference) < 1e-4
    assert relative_error(our_logits(folder, tokens, scan_layers=False), reference) < 1e-4


@pytest.mark.parametrize("rope", ROPES)
def test_rope_equals_transformers_past_the_original_length(
    make_model: MakeModel, tokens: np.ndarray, rope: str
) -> None:
    folder, theirs = make_model("llama", **rope_config(ROPES[rope]))
    reference = torch_logits(theirs, tokens)
    assert "rope_parameters" in json.loads((folder / "config.json").read_text())
    assert relative_error(our_logits(folder, tokens), reference) < 1e-4
    as_transformers_4(folder)
    assert relative_error(our_logits(folder, tokens), reference) < 1e-4


YARN = ROPES["yarn"]
LLAMA3 = ROPES["llama3"]
# As published models have them: what is beside the rope settings, and the settings.
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "yarn, finetuned": ({}, {**YARN, "finetuned": True}),
    "yarn, attn_factor": ({}, {**YARN, "attn_factor": 0.5, "extrapolation_factor": 1.0}),
    "yarn, both factors": ({}, {**YARN, "attn_factor": 0.5, "attention_factor": 0.7}),
    "yarn, type": ({}, {"type": "yarn", "factor": 3.0, "original_max_position_embeddings": 8}),
    "yarn, type beside rope_type": ({}, {**YARN, "type": "linear"}),
    "yarn, one mscale": ({}, {**YARN, "mscale": 0.7}),
    "yarn, mscale of zero": ({}, {**YARN, "mscale": 1.0, "mscale_all_dim": 0}),
    "yarn, betas of zero": ({}, {**YARN, "beta_fast": 0, "beta_slow": 0}),
    "yarn, nulls": ({}, {**YARN, "attention_factor": None, "beta_fast": None, "mscale": None}),
    "yarn, truncate null": ({}, {**YARN, "beta_fast": 1.0, "beta_slow": 0.02, "truncate": None}),
    "yarn, no original length": ({}, {"rope_type": "yarn", "factor": 3.0}),
    "yarn, original length beside": ({"original_max_position_embeddings": 4}, {"rope_type": "yarn", "factor": 3.0}),
    "yarn, original length twice": ({"original_max_position_embeddings": 4}, YARN),
    "yarn, longest length inside": ({}, {**YARN, "max_position_embeddings": 32}),
    "llama3, original length twice": ({"original_max_position_embeddings": 4}, LLAMA3),
    "llama3, a key of nobody": ({}, {**LLAMA3, "twist": 3}),
    "linear, a yarn key": ({}, {**ROPES["linear"], "beta_fast": 3, "original_max_position_embeddings": 8}),
    "dynamic, alpha": ({}, {**ROPES["dynamic"], "alpha": 1000.0}),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_rope_settings_of_published_models_are_read_as_transformers_reads_them(
    make_model: MakeModel, tokens: np.ndarray, case: str
) -> None:
    from transformers import AutoModelForCausalLM

    beside, rope = PUBLISHED[case]
    folder, _ = make_model("llama", **rope_config(ROPES["default"]), num_hidden_layers=1)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    config |= {"rope_theta": THETA, "rope_scaling": rope, **beside}
    if "dynamic" in case:
        config["max_position_embeddings"] = 8
    path.write_text(json.dumps(config))
    reference = torch_logits(AutoModelForCausalLM.from_pretrained(folder).eval(), tokens)
    assert relative_error(our_logits(folder, tokens), reference) < 1e-4


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_rope_equals_transformers_within_the_original_length(
    make_model: MakeModel, tokens: np.ndarray, rope: str
) -> None:
    folder, theirs = make_model("llama", **rope_config(ROPES[rope]))
    # transformers keeps the frequencies of the longest sequence seen, so the short one goes first.
    short = torch_logits(theirs, tokens[:, :8])
    assert relative_error(our_logits(folder, tokens[:, :8]), short) < 1e-4
    assert relative_error(torch_logits(theirs, tokens)[:, :8], short) > 1e-2  # the variant does depend on length


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_a_row_does_not_change_with_the_length_of_its_neighbours(
    make_model: MakeModel, tokens: np.ndarray, rope: str
) -> None:
    folder, _ = make_model("llama", **rope_config(ROPES[rope]))
    model = HFCheckpointConverter.from_hf(str(folder)).load_pretrained()
    alone = model(jnp.asarray(tokens[:1, :6]))
    segment_ids = np.ones_like(tokens)
    segment_ids[0, 6:] = 0
    positions = np.broadcast_to(np.arange(24), tokens.shape) * segment_ids
    batch = model(jnp.asarray(tokens), segment_ids=jnp.asarray(segment_ids), positions=jnp.asarray(positions))
    assert relative_error(batch[:1, :6], alone) < 1e-5


def test_every_rope_variant_is_told_from_default(make_model: MakeModel, tokens: np.ndarray) -> None:
    """Parity alone would hold if both sides ignored a setting."""
    logits = {}
    for name, rope in ROPES.items():
        _, theirs = make_model("llama", **rope_config(rope))
        logits[name] = torch_logits(theirs, tokens)
    names = list(logits)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert relative_error(logits[one], logits[other]) > 1e-3, (one, other)


def test_bfloat16_error_is_that_of_bfloat16(make_model: MakeModel, tokens: np.ndarray) -> None:
    """Against the same bfloat16 weights computed in float32: within 4 % of the largest logit.

    Three layers round about ten times each, by 2^-9 of the value at most: the errors add up as a random walk.
    """
    folder, _ = make_model("llama", attention_bias=True)
    converter = HFCheckpointConverter.from_hf(str(folder))
    model = converter.load_pretrained(dtype=jnp.bfloat16)
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model)(jnp.asarray(tokens))
    logits = model(jnp.asarray(tokens))
    assert logits.dtype == jnp.bfloat16
    error = relative_error(logits, exact)
    assert 1e-4 < error < 0.04


def test_equals_transformers_on_smollm2(smollm2: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    tokens = np.random.default_rng(1).integers(0, 49152, (1, 40))
    assert relative_error(our_logits(smollm2, tokens, dtype=jnp.float32), torch_logits(theirs, tokens)) < 1e-4
