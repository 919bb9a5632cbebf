"""Ranks and alphas of single layers: PEFT's matching, module for module and number for number."""

from typing import Any

import jax
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.patterns import in_any_order, matching_pattern, value_for
from lodos.lora.transform import adapted_names, lora_layers, lora_parameter_count, loraize, named_linears
from lodos.tree import cast_floating, partition

NAME = "model.layers.1.self_attn.q_proj"
PATTERNS: dict[str, dict[str, int]] = {
    "an ending": {"q_proj": 2},
    "a layer's": {"layers.1.self_attn.q_proj": 2},
    "a whole name": {"model.layers.0.mlp.up_proj": 5},
    "a regex": {r".*\.[01]\..*_proj": 6},
    "an alternative": {"q_proj|v_proj": 3},
    "an anchored name": {r"^model\.layers\.2\.self_attn\.k_proj": 7},
    "the first of two": {"layers.1.self_attn.q_proj": 2, "q_proj": 3, r".*mlp.*": 5},
    "the general before the special": {"q_proj": 3, r".*_proj": 5},
    "dots for any character": {"layers.1.mlp.up.proj": 9},
}


@pytest.fixture(scope="module")
def folder(make_model: Any) -> Any:
    return make_model()[0]


@pytest.fixture(scope="module")
def base(folder: Any) -> Any:
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained()


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("case", PATTERNS)
def test_ranks_and_scales_are_pefts(case: str, use_rslora: bool, folder: Any, base: Any) -> None:
    import peft
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig, AutoModelForCausalLM

    ranks = PATTERNS[case]
    alphas = {pattern: 3.0 * rank for pattern, rank in list(ranks.items())[::-1]}
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    with torch.device("meta"):
        model = peft.get_peft_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)), config)
    theirs = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    ours = LoraConfig(r=4, alpha=6.0, use_rslora=use_rslora, rank_pattern=ranks)
    ours = LoraConfig(**{**ours.__dict__, "alpha_pattern": alphas})
    if case == "the general before the special":  # what decides nothing is refused here
        with pytest.raises(UserError, match=r"alpha_pattern: 'q_proj' decides nothing"):
            loraize(base, ours, key=jax.random.key(0))
        assert {name: (ours.rank_of(name), ours.scale_of(name)) for name in theirs} == theirs
        return
    if case == "the first of two":
        ours = LoraConfig(**{**ours.__dict__, "alpha_pattern": dict(list(alphas.items())[:1])})
        theirs = {name: (rank, ours.scale_of(name)) for name, (rank, _) in theirs.items()}
    layers = lora_layers(loraized := loraize(base, ours, key=jax.random.key(0)))
    found = {}
    for stacked_name, names in adapted_names(loraized).items():
        layer: Any = layers[stacked_name]
        for index, name in names:
            scale = layer.scale[index] if isinstance(layer.scale, tuple) else layer.scale
            found[name] = (layer.rank_of(index), scale)
    assert found == theirs


def test_the_first_pattern_that_matches_decides() -> None:
    assert matching_pattern(["k_proj", "q_proj", ".*"], NAME) == "q_proj"
    assert matching_pattern(["proj", "q_pro", "self_attn"], NAME) is None
    assert value_for({"layers.1.self_attn.q_proj": 1, "q_proj": 2}, NAME, 8) == 1
    assert value_for({"layers.2.self_attn.q_proj": 1}, NAME, 8) == 8


@pytest.mark.parametrize("option", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("pattern", ["q_prj", "proj", "layers.9.self_attn.q_proj", "up_proj"])
def test_a_pattern_that_matches_nothing_is_refused_by_name(option: str, pattern: str, base: Any) -> None:
    options: dict[str, Any] = {option: {"v_proj": 2, pattern: 3}}
    with pytest.raises(
        UserError, match=rf"{option}: '{pattern}' matches none of the adapted modules: q_proj, v_proj\."
    ):
        loraize(base, LoraConfig(target_modules=["q_proj", "v_proj"], **options), key=jax.random.key(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(rank_pattern={"q_proj": 0}), "rank_pattern: q_proj: 0 must be a whole number"),
        (dict(rank_pattern={"q_proj": 2.5}), "rank_pattern: q_proj: 2.5 must be a whole number"),
        (dict(rank_pattern={"q_proj": True}), "rank_pattern: q_proj: true must be a whole number"),
        (dict(alpha_pattern={"q_proj": 0.0}), "alpha_pattern: q_proj: 0.0 would make"),
        (dict(alpha_pattern={"*q": 1.0}), r"alpha_pattern: '\*q' is not a regex"),
    ],
)
def test_a_bad_pattern_is_refused(options: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        LoraConfig(**options)


NAMES = [f"model.layers.{layer}.self_attn.{kind}_proj" for layer in range(3) for kind in "qkv"]


@pytest.mark.parametrize(
    "patterns", [{}, {"q_proj": 2}, {"layers.1.self_attn.q_proj": 2, "q_proj": 3}, {"q_proj": 4, r".*_proj": 2}]
)
def test_patterns_as_written_say_the_same_in_any_order(patterns: dict[str, int]) -> None:
    expected = {name: value_for(patterns, name, 8) for name in NAMES}
    written = in_any_order(patterns, NAMES, 8)
    assert list(written) == sorted(written)
    for ordered in (written, dict(reversed(written.items()))):
        assert {name: value_for(ordered, name, 8) for name in NAMES} == expected


@pytest.mark.parametrize("init", ["default", "gaussian", "zero_a"])
def test_what_is_beyond_the_rank_of_a_layer_is_zero_and_the_rest_starts_by_its_own_rank(init: Any, base: Any) -> None:
    ranks = {"layers.0.self_attn.q_proj": 64, "layers.2.self_attn.q_proj": 2}
    config = LoraConfig(r=8, init=init, target_modules=["q_proj"], rank_pattern=ranks)
    (layer,) = lora_layers(loraize(base, config, key=jax.random.key(0))).values()
    for index, rank in enumerate((64, 8, 2)):
        A, B = np.asarray(layer.factors[0][index]), np.asarray(layer.factors[1][index])
        assert not A[rank:].any()
        assert not B[:, rank:].any()
        kept = A[:rank] if init != "zero_a" else B[:, :rank]
        expected = {"default": (1 / 32) ** 0.5 / 3**0.5, "gaussian": 1 / rank, "zero_a": (1 / rank) ** 0.5 / 3**0.5}
        assert kept.std() == pytest.approx(expected[init], rel=0.25)
        assert np.all(kept != 0)


def test_equal_patterns_are_the_same_program_as_no_patterns(base: Any) -> None:
    plain = loraize(base, LoraConfig(r=4, alpha=6.0), key=jax.random.key(0))
    same = LoraConfig(r=8, alpha=5.0, rank_pattern={".*_proj": 4}, alpha_pattern={".*": 6.0})
    assert jax.tree.structure(loraize(base, same, key=jax.random.key(0))) == jax.tree.structure(plain)


def test_only_the_factors_count_and_train(base: Any) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], rank_pattern={"layers.1.mlp.down_proj": 7})
    model = loraize(base, config, key=jax.random.key(0))
    # A and B of q_proj: 32 in, 32 out, in three layers; of down_proj: 48 in, 32 out.
    assert lora_parameter_count(model) == 3 * 4 * (32 + 32) + (4 + 7 + 4) * (48 + 32)
    trainable, _ = partition(model, lora_trainable_params_filter(model))
    assert len(jax.tree.leaves(trainable)) == 4
    assert named_linears(model) == named_linears(base)


def test_scales_survive_a_change_of_dtype(base: Any) -> None:
    config = LoraConfig(r=3, alpha=1.0, target_modules=["q_proj"], alpha_pattern={"layers.1.self_attn.q_proj": 7.0})
    (layer,) = lora_layers(cast_floating(loraize(base, config, key=jax.random.key(0)), "bfloat16")).values()
    assert layer.scale == (1 / 3, 7 / 3, 1 / 3)  # pyright: ignore[reportAttributeAccessIssue]
