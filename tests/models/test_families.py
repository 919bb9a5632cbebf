"""Each family computes, trains and saves what transformers, torch and PEFT do, on tiny random models in odd shapes.

What the shapes are is in `tests/family_cases`, a file for each.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench.parity import Comparison, train_in_lodos, train_in_peft
from safetensors.numpy import load_file

from family_cases import FAMILIES, first_case, shaped
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained, save_peft_pretrained
from lodos.formats.text_part import called
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import lora_layers, loraize, targeted_names, with_factors
from lodos.models.decoder import LmHeadModel
from lodos.nn.kv_cache import KVCache
from lodos.train.optim import OptimizerConfig
from lodos.tree import combine, partition
from lodos.types import LmExample

pytest.importorskip("torch")

CASES = [
    pytest.param(model_type, name, marks=pytest.mark.long if index else ())
    for model_type, family in FAMILIES.items()
    for index, name in enumerate(family.CASES)
]
REFUSED = [(model_type, name) for model_type, family in FAMILIES.items() for name in family.REFUSED]
# Two examples and filler in the first row, one example and filler in the second.
SEGMENTS = np.asarray([[1] * 11 + [2] * 10 + [0] * 3, [1] * 20 + [0] * 4], np.int32)
POSITIONS = np.asarray([[*range(11), *range(10), 0, 0, 0], [*range(20), 0, 0, 0, 0]], np.int32)
EXAMPLES = [(0, slice(0, 11)), (0, slice(11, 21)), (1, slice(0, 20))]
READ = 16
"""Tokens of the prompt in cached decoding."""


def torch_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(tokens), use_cache=False).logits.numpy()


def assert_close(found: Any, expected: np.ndarray, rel: float = 1e-4) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=rel * np.abs(expected).max())


@eqx.filter_jit
def logits(model: LmHeadModel, tokens: Any, segments: Any, positions: Any) -> Any:
    return model(tokens, segment_ids=segments, positions=positions)


@eqx.filter_jit
def read(model: LmHeadModel, tokens: Any, positions: Any, cache: KVCache) -> Any:
    hidden, cache_after = model.decoder(tokens, jnp.ones_like(tokens), positions, cache=cache)
    return model.logits(hidden).reshape(*tokens.shape, -1), cache_after


def whole(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tokens, np.ones_like(tokens), np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)


def converter(folder: Path) -> HFCheckpointConverter:
    return HFCheckpointConverter.from_hf(str(folder))


def make(make_model: Any, model_type: str, case: str | None = None) -> tuple[Path, Any]:
    config = first_case(model_type) if case is None else shaped(FAMILIES[model_type].CASES[case])
    return make_model(model_type, **config)


@pytest.mark.parametrize(("model_type", "case"), CASES)
def test_logits_equal_transformers(model_type: str, case: str, make_model: Any, tokens: np.ndarray) -> None:
    folder, theirs = make(make_model, model_type, case)
    # transformers keeps what it made of the longest text, so the short ones go first.
    alone = [torch_logits(theirs, tokens[row : row + 1, part]) for row, part in EXAMPLES]
    reference = torch_logits(theirs, tokens)
    model = converter(folder).load_pretrained()
    assert_close(logits(model, *whole(tokens)), reference)

    packed = np.asarray(logits(model, tokens, SEGMENTS, POSITIONS))
    for (row, part), expected in zip(EXAMPLES, alone, strict=True):
        assert_close(packed[row : row + 1, part], expected)
    changed = np.where((SEGMENTS == 1) & (np.arange(2) == 0)[:, None], (tokens + 7) % 256, tokens)
    after = np.asarray(logits(model, changed, SEGMENTS, POSITIONS))
    (_, first), *others = EXAMPLES
    assert not (after[0, first] == packed[0, first]).all(axis=-1).any()
    assert all(np.array_equal(after[row, part], packed[row, part]) for row, part in others)

    config = model.config
    cache: Any = KVCache.empty(
        config.num_hidden_layers, 2, 24, config.num_key_value_heads, config.head_dim, jnp.dtype("float32")
    )
    _, _, positions = whole(tokens)
    found, cache = read(model, tokens[:, :READ], positions[:, :READ], cache)
    assert_close(found, reference[:, :READ])
    for index in range(READ, 20):
        found, cache = read(model, tokens[:, index : index + 1], positions[:, index : index + 1], cache)
        assert_close(found[:, 0], reference[:, index])


@pytest.mark.long
@pytest.mark.parametrize(("model_type", "case"), CASES)
def test_unrolled_and_in_other_attention_it_is_the_same(
    model_type: str, case: str, make_model: Any, tokens: np.ndarray
) -> None:
    folder, theirs = make(make_model, model_type, case)
    reference = torch_logits(theirs, tokens)
    for attention in ("plain", "blockwise", "splash"):
        model = converter(folder).load_pretrained(scan_layers=False, attn_implementation=attention)
        try:
            assert_close(logits(model, *whole(tokens)), reference)
        except UserError as error:
            assert attention == "splash", error  # noqa: PT017


@pytest.mark.parametrize(("model_type", "case"), REFUSED)
def test_what_is_not_implemented_is_refused_by_name(model_type: str, case: str, make_model: Any) -> None:
    config, said = FAMILIES[model_type].REFUSED[case]
    folder, _ = make(make_model, model_type)
    path = folder / "config.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), **config}))
    with pytest.raises(UserError) as error:
        converter(folder)
    path.write_text(before)
    assert said in str(error.value)


def trained(base: LmHeadModel, config: LoraConfig) -> LmHeadModel:
    """With random factors, as after training, whose update is about as large as the weight."""
    model, factors = loraize(base, config, key=jax.random.key(1)), {}
    for index, (name, layer) in enumerate(lora_layers(model).items()):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), index))
        factors[name] = tuple(
            0.15 * jax.random.normal(key, factor.shape) for key, factor in zip(keys, layer.factors, strict=True)
        )
    return with_factors(model, factors)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_adapters_and_merged_models_are_those_of_peft(
    model_type: str, make_model: Any, tokens: np.ndarray, tmp_path: Path
) -> None:
    import peft
    import torch

    folder, model_in_torch = make(make_model, model_type)
    auto = type(model_in_torch)
    base, config = converter(folder).load_pretrained(), LoraConfig(r=3, alpha=4.0)
    model = trained(base, config)
    save_peft_pretrained(model, config, str(folder), tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected).*keys.*")
        theirs = peft.PeftModel.from_pretrained(auto.from_pretrained(folder), str(tmp_path / "ours"), is_trainable=True)
    expected = torch_logits(theirs, tokens)
    computed = logits(model, *whole(tokens))
    assert_close(computed, expected)
    assert np.abs(np.asarray(logits(base, *whole(tokens))) - expected).max() > 0.01 * np.abs(expected).max()

    # The gradients of A and B, of the mean loss of all but the last token.
    theirs.eval()(torch.tensor(tokens), labels=torch.tensor(tokens), use_cache=False).loss.backward()
    targets, weights = np.roll(tokens, -1, 1), np.ones(tokens.shape, np.float32)
    weights[:, -1] = 0
    _, segments, positions = whole(tokens)
    example = LmExample(*map(jnp.asarray, (tokens, targets, weights, segments, positions)))
    adapters, frozen = partition(model, lora_trainable_params_filter(model))
    loss = eqx.filter_jit(eqx.filter_grad(lambda adapters: combine(adapters, frozen).compute_loss(example).scalar()))
    found = combine(loss(adapters), model)
    save_peft_pretrained(found, config, str(folder), tmp_path / "gradients")
    gradients = load_file(tmp_path / "gradients" / "adapter_model.safetensors")
    of_theirs = {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in theirs.named_parameters()
        if parameter.grad is not None
    }
    assert gradients.keys() == of_theirs.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, of_theirs[name], 1e-3)

    all_linear = peft.get_peft_model(auto.from_pretrained(folder), peft.LoraConfig(target_modules="all-linear", r=2))
    adapted = {
        name.removeprefix("base_model.model.")
        for name, module in all_linear.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    if base.config.is_text_part:  # where PEFT adapts the towers too
        adapted = {name for name in adapted if name.startswith("model.language_model.")}
    assert adapted == set(targeted_names(base, LoraConfig()))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded, _ = load_peft_pretrained(base, tmp_path / "theirs")
    np.testing.assert_array_equal(logits(loaded, *whole(tokens)), computed)

    converter(folder).save_pretrained(model, tmp_path / "merged")
    assert_close(torch_logits(auto.from_pretrained(tmp_path / "merged"), tokens), expected)
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "merged"))
    assert list(before) == list(after)
    changed = {called(name) for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {f"{name}.weight" for name in adapted}


@pytest.mark.long
@pytest.mark.parametrize("model_type", FAMILIES)
def test_twenty_steps_equal_peft(model_type: str, make_model: Any, tmp_path: Path) -> None:
    folder, _ = make(make_model, model_type)
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(20):
        tokens = rng.integers(4, 256, (2, 17)).astype(np.int32)
        real = np.arange(16) < rng.integers(6, 17, (2, 1))
        rows = (tokens[:, :-1] * real, tokens[:, 1:] * real, real.astype(np.float32), real.astype(np.int32))
        batches.append(LmExample(*rows, positions=(np.arange(16) * real).astype(np.int32)))
    optimizer = OptimizerConfig(learning_rate=3e-3, weight_decay=0.1, max_grad_norm=0.5, warmup=3)
    ours = train_in_lodos(folder, LoraConfig(r=3, alpha=9.0), optimizer, batches, tmp_path / "initial")
    theirs = train_in_peft(folder, optimizer, batches, tmp_path / "initial")
    assert len(ours.losses) == 20
    assert Comparison.of(ours, theirs).largest_loss_difference < 1e-4
    assert any(np.any(tensor) for name, tensor in ours.factors.items() if "lora_B" in name)
