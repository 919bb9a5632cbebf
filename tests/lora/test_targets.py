"""The modules that a config means are those that PEFT adapts, module for module, on a real transformers model."""

from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.lora.targets import matches, suffixes_selecting, target_names
from lodos.lora.transform import adapted_names, loraize, targeted_names

pytest.importorskip("torch")

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]

# target_modules, exclude_modules
PATTERNS: dict[str, tuple[Any, Any]] = {
    "endings": (["q_proj", "v_proj"], None),
    "an ending twice": (["q_proj", "q_proj"], None),
    "an ending of two parts": (["self_attn.q_proj", "mlp.up_proj"], None),
    "every ending": ([*ATTENTION, "gate_proj", "up_proj", "down_proj"], None),
    "the output head by name": (["lm_head"], None),
    "the output head beside others": (["lm_head", "down_proj"], None),
    "one layer's": (["layers.1.self_attn.k_proj"], None),
    "a whole name": (["model.layers.2.mlp.gate_proj"], None),
    "a whole name and an ending": (["model.layers.0.self_attn.q_proj", "o_proj"], None),
    "an index that is the start of another": (["layers.1.mlp.up_proj"], None),
    "all-linear": ("all-linear", None),
    "All-Linear": ("All-Linear", None),
    "ALL-LINEAR without an ending": ("ALL-LINEAR", ["k_proj"]),
    "all-linear without a regex": ("all-linear", r".*layers\.0\..*"),
    "all-linear without a whole name": ("all-linear", ["model.layers.1.mlp.down_proj"]),
    "all-linear without an empty list": ("all-linear", []),
    "the embedding": (["embed_tokens"], None),
    "the embedding, the head and others": (["embed_tokens", "lm_head", "v_proj"], None),
    "a regex for the embedding": (r"model\.embed_tokens|.*\.up_proj", None),
    "the embedding but for the head": (["embed_tokens", "lm_head"], ["lm_head"]),
    "regex": (r".*_proj", None),
    "regex of some": (r".*\.(q|v)_proj", None),
    "regex of layers": (r"model\.layers\.[02]\.self_attn\.[qk]_proj", None),
    "regex of two digits": (r".*layers\.\d\d\..*_proj", None),
    "regex with dots for any character": (r"model.layers.1.mlp.up_proj", None),
    "regex of a whole name": (r"lm_head", None),
    "regex with a flag": (r"(?i).*\.Q_PROJ", None),
    "regex with an alternative": (r"lm_head|.*\.o_proj", None),
    "regex with a look-ahead": (r"(?!.*mlp).*_proj", None),
    "regex without an ending": (r".*_proj", ["q_proj", "up_proj"]),
    "regex without a regex": (r".*_proj", r".*mlp.*"),
    "endings without one layer's": (["q_proj", "v_proj"], ["layers.0.self_attn.q_proj"]),
}

# PEFT refuses these as well: nothing of the model matches, or nothing is left.
REFUSED_BY_BOTH: dict[str, tuple[Any, Any]] = {
    "a part of a name": (["proj"], None),
    "the end of a part": (["_proj"], None),
    "a name without its last part": (["self_attn.q"], None),
    "a prefix": (["model.layers.0"], None),
    "another case": (["Q_PROJ"], None),
    "an ending as a string": ("q_proj", None),
    "a regex for the start of names": (r"model\.layers\.0", None),
    "a regex for the end of names": (r"self_attn\.q_proj", None),
    "a regex in another case": (r".*\.Q_proj", None),
    "all-linear in a list": (["all-linear"], None),
    "a name with a stack's star": (["model.layers.*.self_attn.q_proj"], None),
    "everything excluded": (["q_proj"], ["q_proj"]),
    "everything excluded by a regex": ("all-linear", ".*"),
}


def linear_names(model: Any) -> list[str]:
    """The names of a torch model's linear layers."""
    import torch

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def adapted_by_peft(torch_model: Any, target_modules: Any, exclude_modules: Any) -> set[str]:
    """The modules that PEFT adapts in a model of this config; it adapts in place, so each call makes a new model."""
    import peft
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(target_modules=target_modules, exclude_modules=exclude_modules, task_type="CAUSAL_LM")
    with torch.device("meta"):
        model = peft.get_peft_model(AutoModelForCausalLM.from_config(torch_model.config), config)
    return {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def adapted_by_lodos(base: Any, target_modules: Any, exclude_modules: Any) -> set[str]:
    config = LoraConfig(target_modules=target_modules, exclude_modules=exclude_modules, r=2)
    names = adapted_names(loraize(base, config, key=jax.random.key(0)))
    return {name for layers in names.values() for _, name in layers}


@pytest.fixture(scope="module")
def llama(make_model: Any) -> tuple[Any, Any]:
    """A model with as many layers as make two digits, in lodos and in torch."""
    folder, torch_model = make_model(num_hidden_layers=12, hidden_size=8, intermediate_size=12)
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained(), torch_model


@pytest.fixture(scope="module")
def names(llama: tuple[Any, Any]) -> list[str]:
    return linear_names(llama[1])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_adapted_modules_are_pefts(pattern: str, llama: tuple[Any, Any]) -> None:
    base, torch_model = llama
    expected = adapted_by_peft(torch_model, *PATTERNS[pattern])
    assert expected
    assert adapted_by_lodos(base, *PATTERNS[pattern]) == expected


@pytest.mark.parametrize("pattern", REFUSED_BY_BOTH)
def test_what_selects_nothing_in_peft_is_refused(pattern: str, llama: tuple[Any, Any]) -> None:
    base, torch_model = llama
    reasons = "not found in the base model|not supported|All modules were excluded|No modules were targeted"
    with pytest.raises(ValueError, match=reasons):
        adapted_by_peft(torch_model, *REFUSED_BY_BOTH[pattern])
    with pytest.raises(UserError, match="This model has: q_proj, "):
        adapted_by_lodos(base, *REFUSED_BY_BOTH[pattern])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_no_targets_are_what_peft_calls_all_linear(model_type: str, tied: bool, make_model: Any) -> None:
    folder, torch_model = make_model(model_type, tie_word_embeddings=tied)
    base = HFCheckpointConverter.from_hf(str(folder)).structure()
    found = targeted_names(base, LoraConfig())
    assert set(found) == adapted_by_peft(torch_model, "all-linear", None)
    assert "lm_head" not in found


@pytest.mark.parametrize("entries", [["q_proj", "Q_PROJ"], ["proj", "q_proj"]])
def test_an_entry_that_matches_nothing_is_refused_where_peft_says_nothing(
    entries: list[str], llama: tuple[Any, Any]
) -> None:
    base, torch_model = llama
    assert len(adapted_by_peft(torch_model, entries, None)) == 12
    with pytest.raises(UserError, match="no module matches"):
        adapted_by_lodos(base, entries, None)


def test_every_entry_that_matches_nothing_is_named_with_the_nearest(names: list[str]) -> None:
    with pytest.raises(UserError) as error:
        target_names(LoraConfig(target_modules=["q_prj", "v_proj", "down_project", "xyz"]), names)
    first, second, third = str(error.value).splitlines()
    has = "This model has: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head."
    assert first == f"target_modules: no module matches 'q_prj'. Did you mean 'q_proj'? {has}"
    assert second == f"target_modules: no module matches 'down_project'. Did you mean 'down_proj'? {has}"
    assert third == f"target_modules: no module matches 'xyz'. {has}"


def test_an_ending_given_as_a_string_is_refused_with_the_list_to_write(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"'q_proj'. A string is a regex .* give a list: \[q_proj\]\. This model has: "):
        target_names(LoraConfig(target_modules="q_proj"), names)


def test_a_tied_output_head_is_refused_with_the_reason(make_model: Any) -> None:
    folder, _ = make_model(tie_word_embeddings=True)
    base = HFCheckpointConverter.from_hf(str(folder)).structure()
    with pytest.raises(UserError, match=r"'lm_head'\. The output head of this model is tied to its embeddings"):
        targeted_names(base, LoraConfig(target_modules=["lm_head", "q_proj"]))


@pytest.mark.parametrize(
    ("option", "config"),
    [
        ("target_modules", LoraConfig(target_modules="*_proj")),
        ("exclude_modules", LoraConfig(exclude_modules="*_proj")),
    ],
)
def test_a_broken_regex_is_refused_with_its_fault(option: str, config: LoraConfig, names: list[str]) -> None:
    with pytest.raises(UserError, match=rf"{option}: '\*_proj' is not a regex: nothing to repeat"):
        target_names(config, names)


@pytest.mark.parametrize("exclusion", [["c_attn"], ["proj"], ["down_proj", "c_attn"], "q_proj"])
def test_an_exclusion_that_excludes_nothing_is_refused_where_peft_warns(exclusion: Any, names: list[str]) -> None:
    with pytest.raises(UserError, match=r"exclude_modules: '(c_attn|proj|q_proj)' excludes none of .*: q_proj, k_proj"):
        target_names(LoraConfig(exclude_modules=exclusion), names)


def test_exclusions_that_leave_nothing_are_refused_with_their_number(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"exclude_modules: \['q_proj'\] excludes all 12 modules"):
        target_names(LoraConfig(target_modules=["q_proj"], exclude_modules=["q_proj"]), names)


def test_names_stay_in_the_models_order(names: list[str]) -> None:
    found = target_names(LoraConfig(target_modules=["v_proj", "lm_head", "q_proj"]), names)
    assert found == [name for name in names if name.endswith(("q_proj", "v_proj", "lm_head"))]


# Names of equal depth, as a model's: none is another's ending.
_NAMES = st.builds(
    "model.layers.{}.{}.{}".format,
    st.integers(0, 11),
    st.sampled_from(["self_attn", "mlp", "attn"]),
    st.sampled_from(["q_proj", "proj", "up_proj", "q", "0"]),
)


@given(st.lists(_NAMES, unique=True, min_size=1), st.data())
def test_suffixes_select_exactly_what_was_adapted(names: list[str], data: st.DataObject) -> None:
    adapted = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    entries = suffixes_selecting(adapted, names)
    assert {name for name in names if matches(entries, name)} == set(adapted)
    assert len(entries) <= len(adapted)
    assert entries == suffixes_selecting(adapted[::-1], names[::-1]) == sorted(entries)


@pytest.mark.parametrize(
    ("pattern", "entries"),
    [
        (r".*\.[qv]_proj", ["q_proj", "v_proj"]),
        (r".*layers\.1\.mlp\.up_proj|lm_head", ["lm_head", "model.layers.1.mlp.up_proj"]),
    ],
)
def test_suffixes_are_as_short_as_can_be(pattern: str, entries: list[str], names: list[str]) -> None:
    adapted = target_names(LoraConfig(target_modules=pattern), names)
    assert suffixes_selecting(adapted, names) == entries
