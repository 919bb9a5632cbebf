"""Into LoRA and out of it: what does not change, what starts at random, and what merging gives."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.layers import LoraLinear
from lodos.lora.transform import (
    adapted_names,
    lora_layers,
    lora_parameter_count,
    loraize,
    merge_lora_modules,
    named_linears,
    with_factors,
)
from lodos.nn.linear import Linear
from lodos.train.optim import OptimizerConfig
from lodos.tree import cast_floating, combine, named_leaves, parameter_count, partition

INITS = ["default", "gaussian", "zero_a"]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SOME = LoraConfig(target_modules=["layers.1.self_attn.q_proj", "layers.0.mlp.up_proj", "o_proj"], r=4)
"""Adapts some layers of a stack: these."""
ADAPTED = {"q_proj": [1], "up_proj": [0], "o_proj": [0, 1, 2]}


class TwoLayers(eqx.Module):
    """A module that is not a decoder and has no stack."""

    first: Linear
    second: Linear

    @staticmethod
    def init(in_: int = 6, inner: int = 16, out: int = 3) -> "TwoLayers":
        one, two = jax.random.split(jax.random.key(0))
        return TwoLayers(
            Linear.init(inner, in_, axes=("mlp", "embed"), bias=True, std=0.4, key=one),
            Linear.init(out, inner, axes=("embed", "mlp"), std=0.4, key=two),
        )

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        one, two = (None, None) if key is None else jax.random.split(key)
        return self.second(jax.nn.relu(self.first(x, key=one)), key=two)


@pytest.fixture(scope="module")
def llama(make_model: Any) -> tuple[Any, Any]:
    """A model in lodos and in torch, with biases."""
    folder, torch_model = make_model(attention_bias=True, mlp_bias=True)
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained(), torch_model


@pytest.fixture(scope="module")
def base(llama: tuple[Any, Any]) -> Any:
    return llama[0]


def with_random_factors(model: Any, seed: int = 0, std: float = 0.15) -> Any:
    """A model as after training: no factor of an adapted layer is zero."""
    rng = np.random.default_rng(seed)
    factors = {
        name: tuple(jnp.asarray(rng.normal(size=x.shape, scale=std), jnp.float32) for x in (layer.lora_A, layer.lora_B))
        for name, layer in lora_layers(model).items()
    }
    return with_factors(model, factors)  # pyright: ignore[reportArgumentType]


def slices(model: Any, factor: str) -> list[np.ndarray]:
    """`lora_A` or `lora_B` of every adapted layer, those of a stack one by one."""
    found = []
    for layer in lora_layers(model).values():
        array = np.asarray(getattr(layer, factor))
        found += list(array.reshape(-1, *array.shape[-2:]))
    return found


@eqx.filter_jit
def logits(model: Any, tokens: np.ndarray, key: Any = None) -> Any:
    return model(jnp.asarray(tokens), key=key)


def bits(x: Any) -> bytes:
    return np.asarray(x).tobytes()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("targets", [[*PROJECTIONS, "lm_head"], SOME.target_modules], ids=["all", "some"])
def test_a_fresh_adapter_changes_nothing_bit_for_bit(
    targets: Any, init: Any, dtype: Any, base: Any, tokens: np.ndarray
) -> None:
    base = cast_floating(base, dtype)
    config = LoraConfig(target_modules=targets, r=4, dropout=0.3, init=init)
    model = loraize(base, config, key=jax.random.key(1))
    expected = logits(base, tokens)
    assert expected.dtype == dtype
    assert bits(logits(model, tokens)) == bits(expected)
    assert bits(logits(model, tokens, jax.random.key(2))) == bits(expected)


@pytest.mark.parametrize(("init", "zero", "random"), [(*INITS[:1], "lora_B", "lora_A"), ("zero_a", "lora_A", "lora_B")])
def test_one_factor_is_zero_and_the_other_nowhere_the_same(init: Any, zero: str, random: str, base: Any) -> None:
    model = loraize(cast_floating(base, jnp.bfloat16), LoraConfig(r=4, init=init), key=jax.random.key(0))
    assert not any(array.any() for array in slices(model, zero))
    arrays = slices(model, random)
    assert len(arrays) == 3 * len(PROJECTIONS)
    first_numbers = [array[0, :4].tolist() for array in arrays]
    assert len({tuple(row) for row in first_numbers}) == len(arrays)
    assert {array.dtype for factor in (zero, random) for array in slices(model, factor)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("init", "in_peft"), [("default", True), ("gaussian", "gaussian")])
def test_lora_a_starts_with_pefts_distribution(init: Any, in_peft: Any) -> None:
    torch = pytest.importorskip("torch")
    import peft

    wide, r = 2000, 64
    model = loraize(TwoLayers.init(in_=wide), LoraConfig(["first"], r=r, init=init), key=jax.random.key(0))
    torch.manual_seed(0)
    config = peft.LoraConfig(r=r, target_modules=["0"], init_lora_weights=in_peft)
    layer: Any = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(wide, 16)), config).get_submodule("model.0")
    theirs = layer.lora_A["default"].weight.detach().numpy()
    (ours,) = slices(model, "lora_A")
    found, expected = (np.quantile(x, np.linspace(0.01, 0.99, 50)) for x in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * theirs.std())


@pytest.mark.parametrize(
    ("init", "factor", "bound"), [("default", "lora_A", 1 / math.sqrt(400)), ("zero_a", "lora_B", 1 / math.sqrt(4))]
)
def test_uniform_factors_stay_within_one_over_the_root_of_their_inputs(init: Any, factor: str, bound: float) -> None:
    model = loraize(TwoLayers.init(in_=400, inner=2000), LoraConfig(["first"], r=4, init=init), key=jax.random.key(0))
    (array,) = slices(model, factor)
    assert 0.99 * bound < array.max() <= bound
    assert -bound <= array.min() < -0.99 * bound
    assert array.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_gaussian_factors_have_a_standard_deviation_of_one_over_r() -> None:
    model = loraize(TwoLayers.init(in_=2000), LoraConfig(["first"], r=8, init="gaussian"), key=jax.random.key(0))
    (lora_A,) = slices(model, "lora_A")
    assert lora_A.std() == pytest.approx(1 / 8, rel=0.05)
    assert lora_A.mean() == pytest.approx(0, abs=0.01)


def test_the_key_decides_the_factors(base: Any) -> None:
    one, again, other = (slices(loraize(base, LoraConfig(), key=jax.random.key(seed)), "lora_A") for seed in (0, 0, 1))
    assert all(bits(a) == bits(b) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_factors_do_not_depend_on_what_else_is_adapted(base: Any) -> None:
    everything = lora_layers(loraize(base, LoraConfig(), key=jax.random.key(0)))
    some = lora_layers(loraize(base, LoraConfig(target_modules=["v_proj", "up_proj"]), key=jax.random.key(0)))
    assert len(some) == 2
    assert all(bits(layer.lora_A) == bits(everything[name].lora_A) for name, layer in some.items())


def test_a_model_with_adapters_is_refused(base: Any) -> None:
    model = loraize(base, LoraConfig(target_modules=["q_proj"]), key=jax.random.key(0))
    with pytest.raises(UserError, match=r"already has LoRA layers\. Merge them first with merge_lora_modules"):
        loraize(model, LoraConfig(target_modules=["v_proj"]), key=jax.random.key(0))
    loraize(merge_lora_modules(model), LoraConfig(target_modules=["v_proj"]), key=jax.random.key(0))


def test_the_base_is_wrapped_and_not_copied(base: Any) -> None:
    model = loraize(base, LoraConfig(), key=jax.random.key(0))
    held = {name.replace(".base_layer", ""): leaf for name, leaf in named_leaves(model).items()}
    assert all(held[name] is leaf for name, leaf in named_leaves(base).items())


def test_names_of_layers_stay_and_tell_which_are_adapted(base: Any) -> None:
    model = loraize(base, LoraConfig(target_modules=["layers.1.self_attn.q_proj", "lm_head"]), key=jax.random.key(0))
    assert named_linears(model) == named_linears(base)
    assert adapted_names(model) == {
        "model.layers.*.self_attn.q_proj": [(1, "model.layers.1.self_attn.q_proj")],
        "lm_head": [(None, "lm_head")],
    }


def layers_with_numbers(model: Any, factor: str) -> dict[str, list[int]]:
    """By projection, the layers whose `lora_A` or `lora_B` is not all zero."""
    return {
        name.split(".")[-1]: [index for index, x in enumerate(getattr(layer, factor)) if np.any(x)]
        for name, layer in lora_layers(model).items()
    }


@pytest.mark.parametrize(("init", "factor"), [("default", "lora_A"), ("gaussian", "lora_A"), ("zero_a", "lora_B")])
def test_layers_of_a_stack_that_are_not_adapted_start_with_factors_of_zero(init: Any, factor: str, base: Any) -> None:
    model = loraize(base, dataclasses.replace(SOME, init=init), key=jax.random.key(0))
    assert layers_with_numbers(model, factor) == ADAPTED


@pytest.mark.parametrize(
    ("optimizer", "weight_decay"), [("adamw", 0.3), ("lion", 0.3), ("adafactor", 0.0), ("sgd", 0.0), ("adam", 0.0)]
)
def test_layers_of_a_stack_that_are_not_adapted_stay_zero_in_training(
    optimizer: Any, weight_decay: float, base: Any, some_gradient: Any
) -> None:
    config = OptimizerConfig(type=optimizer, learning_rate=0.1, weight_decay=weight_decay, warmup=0)
    update = config.build(3)
    model = loraize(base, SOME, key=jax.random.key(0))
    trainable, frozen = partition(model, lora_trainable_params_filter(model))
    state = update.init(trainable)
    for _ in range(3):
        updates, state = update.update(some_gradient(trainable, frozen), state, trainable)
        trainable = eqx.apply_updates(trainable, updates)
    trained = combine(trainable, frozen)
    assert layers_with_numbers(trained, "lora_A") == layers_with_numbers(trained, "lora_B") == ADAPTED


@pytest.fixture(scope="module")
def some_gradient(tokens: np.ndarray) -> Any:
    @eqx.filter_jit
    def gradient(trainable: Any, frozen: Any) -> Any:
        def loss(trainable: Any) -> Any:
            return jnp.mean(jnp.square(combine(trainable, frozen)(jnp.asarray(tokens[:, :5]))))

        return eqx.filter_grad(loss)(trainable)

    return gradient


def test_no_factors_can_be_given_to_layers_of_a_stack_that_are_not_adapted(base: Any, tokens: np.ndarray) -> None:
    model = with_random_factors(loraize(base, SOME, key=jax.random.key(0)))
    name = "model.layers.*.self_attn.q_proj"

    def replaced(index: int) -> Any:
        layer = lora_layers(model)[name]
        return with_factors(model, {name: (layer.lora_A.at[index].set(9.0), layer.lora_B.at[index].set(-9.0))})

    assert layers_with_numbers(replaced(0), "lora_A") == layers_with_numbers(replaced(2), "lora_B") == ADAPTED
    expected = logits(model, tokens)
    assert bits(logits(replaced(0), tokens)) == bits(logits(replaced(2), tokens)) == bits(expected)
    assert not np.allclose(logits(replaced(1), tokens), expected, atol=1e-2)
    assert not np.allclose(logits(base, tokens), expected, atol=1e-3)


def test_layers_of_a_stack_that_are_not_adapted_have_no_gradient(base: Any, some_gradient: Any) -> None:
    model = with_random_factors(loraize(base, SOME, key=jax.random.key(0)))
    gradient = some_gradient(*partition(model, lora_trainable_params_filter(model)))
    assert layers_with_numbers(gradient, "lora_A") == layers_with_numbers(gradient, "lora_B") == ADAPTED


def test_any_module_of_linear_layers_can_be_adapted_trained_and_merged() -> None:
    base = TwoLayers.init()
    model = loraize(base, LoraConfig(["second"], r=2, dropout=0.1), key=jax.random.key(1))
    assert isinstance(model.second, LoraLinear)
    assert model.first is base.first
    x = jax.random.normal(jax.random.key(2), (64, 6))
    y = jnp.roll(base(x), 1, axis=-1)
    trainable, frozen = partition(model, lora_trainable_params_filter(model))

    def loss(trainable: Any, key: Any = None) -> Any:
        return jnp.mean(jnp.square(combine(trainable, frozen)(x, key=key) - y))

    optimizer = optax.adam(3e-2)
    state, before = optimizer.init(trainable), loss(trainable)
    step = eqx.filter_jit(eqx.filter_grad(loss))
    for index in range(100):
        updates, state = optimizer.update(step(trainable, jax.random.key(index)), state)
        trainable = eqx.apply_updates(trainable, updates)
    assert loss(trainable) < 0.5 * before

    trained = combine(trainable, frozen)
    merged = merge_lora_modules(trained)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    np.testing.assert_allclose(merged(x), trained(x), rtol=0, atol=1e-5)
    assert bits(merged.first.weight) == bits(base.first.weight)


CASES = {
    "all-linear": LoraConfig(r=4, alpha=6.0),
    "the output head": LoraConfig(target_modules=["lm_head", "k_proj"], r=3, use_rslora=True),
    "some layers of a stack": LoraConfig(target_modules=["layers.1.mlp.down_proj", "q_proj"], r=3),
}


@pytest.mark.parametrize("case", CASES)
def test_the_merged_model_computes_the_same(case: str, base: Any, tokens: np.ndarray) -> None:
    model = with_random_factors(loraize(base, CASES[case], key=jax.random.key(0)))
    merged = merge_lora_modules(model)
    expected = np.asarray(logits(model, tokens))
    assert not lora_layers(merged)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    np.testing.assert_allclose(logits(merged, tokens), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected - logits(base, tokens)).max() > 0.1


@pytest.mark.parametrize("case", CASES)
def test_merged_bfloat16_weights_are_the_float32_sums_rounded_once(case: str, base: Any) -> None:
    base = cast_floating(base, jnp.bfloat16)
    model = with_random_factors(loraize(base, CASES[case], key=jax.random.key(0)), std=0.05)
    merged, layers = named_leaves(merge_lora_modules(model)), lora_layers(model)
    for name, weight in named_leaves(base).items():
        assert merged[name].dtype == jnp.bfloat16
        if (layer := layers.get(name.removesuffix(".weight"))) is None or not name.endswith(".weight"):
            assert bits(merged[name]) == bits(weight), name
            continue
        update = layer.scale * np.asarray(layer.lora_B, np.float64) @ np.asarray(layer.lora_A, np.float64)
        exact = np.asarray(weight).astype(np.float64) + update
        # Half the distance of neighbours in bfloat16, which keeps eight bits, and what float32 itself is off by.
        half = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 8)
        assert np.all(np.abs(np.asarray(merged[name]).astype(np.float64) - exact) <= half + 1e-6), name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], r".*layers\.[02]\..*(k|up)_proj"])
def test_counts_are_pefts(targets: Any, tied: bool, make_model: Any) -> None:
    import peft

    folder, torch_model = make_model(tie_word_embeddings=tied)
    base = HFCheckpointConverter.from_hf(str(folder)).load_pretrained()
    model = loraize(base, LoraConfig(target_modules=targets, r=5), key=jax.random.key(0))
    theirs: Any = peft.get_peft_model(torch_model, peft.LoraConfig(r=5, target_modules=targets, task_type="CAUSAL_LM"))
    trainable, everything = theirs.get_nb_trainable_parameters()
    assert lora_parameter_count(model) == trainable
    assert parameter_count(base) + lora_parameter_count(model) == everything


def test_with_factors_replaces_those_named_and_no_others(base: Any) -> None:
    model = loraize(base, LoraConfig(r=2), key=jax.random.key(0))
    name = "model.layers.*.self_attn.v_proj"
    lora_A, lora_B = (x + 1 for x in (lora_layers(model)[name].lora_A, lora_layers(model)[name].lora_B))
    replaced = named_leaves(with_factors(model, {name: (lora_A, lora_B)}))
    expected = {**named_leaves(model), f"{name}.lora_A": lora_A, f"{name}.lora_B": lora_B}
    assert replaced.keys() == expected.keys()
    assert all(replaced[leaf] is expected[leaf] for leaf in expected)
