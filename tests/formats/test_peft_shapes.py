"""Adapters as ten tools write them: each is loaded and computes what PEFT's would, or is refused with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lodos.cli import main
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained, save_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.lora.transform import lora_layers, loraize, with_factors

Tensors = dict[str, np.ndarray]
PREFIX = "base_model.model."
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def folder(make_model: Any) -> Path:
    return make_model()[0]


@pytest.fixture(scope="module")
def base(folder: Path) -> Any:
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained()


@pytest.fixture(scope="module")
def original(folder: Path, base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LoraConfig(target_modules=["q_proj", "lm_head"], r=4, alpha=6.0)
    model = loraize(base, config, key=jax.random.key(0))
    factors = {
        name: (layer.factors[0], 0.2 * jax.random.normal(jax.random.key(1), layer.factors[1].shape))
        for name, layer in lora_layers(model).items()
    }
    path = tmp_path_factory.mktemp("adapter") / "adapter"
    save_peft_pretrained(with_factors(model, factors), config, str(folder), path)
    return path


@pytest.fixture
def adapter(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "adapter"))


def rewrite(
    adapter: Path, keys: Callable[[str], str] = lambda key: key, extra: Tensors | None = None, **fields: Any
) -> None:
    """Renames the keys, adds tensors, and changes fields of the config; None removes none, it is written."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({**{keys(key): x for key, x in tensors.items()}, **(extra or {})}, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **fields}), encoding="utf-8")


def only(adapter: Path, **fields: Any) -> None:
    """A config with these fields alone."""
    (adapter / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")


def through_torch_compile(key: str) -> str:
    return key.replace("self_attn", "_orig_mod.self_attn")


KEYS: dict[str, Callable[[str], str]] = {
    "PEFT": lambda key: key,
    "a state dict with the adapter's name": lambda key: key.replace(".weight", ".default.weight"),
    "an adapter of another name": lambda key: key.replace(".weight", ".mine.weight"),
    "without the prefix": lambda key: key.removeprefix(PREFIX),
    "with the prefix twice": lambda key: PREFIX + key,
    "torch.compile": through_torch_compile,
    "torch.compile outside": lambda key: f"_orig_mod.{key}",
    "FSDP": lambda key: key.replace("model.layers", "model._fsdp_wrapped_module.layers"),
    "DDP": lambda key: f"module.{key}",
}


@pytest.mark.parametrize("tool", KEYS)
def test_keys_that_can_mean_one_thing_only_load(
    tool: str, adapter: Path, original: Path, base: Any, tokens: np.ndarray
) -> None:
    rewrite(adapter, KEYS[tool])
    expected, found = (load_peft_pretrained(base, path)[0](jnp.asarray(tokens)) for path in (original, adapter))
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, base(jnp.asarray(tokens)))


CONFIGS: dict[str, dict[str, Any]] = {
    "Levanter": dict(peft_type="LORA", r=4, lora_alpha=6.0, target_modules=None, bias="none", task_type="CAUSAL_LM"),
    "torchtune": dict(peft_type="LORA", r=4, lora_alpha=6, target_modules=["q_proj", "lm_head"]),
    "NeMo Automodel": dict(
        peft_type="LORA", r=4, lora_alpha=6, task_type="CAUSAL_LM", target_modules=["model.layers.0.self_attn.q_proj"]
    ),
    "Unsloth": dict(
        peft_type="LORA",
        r=4,
        lora_alpha=6,
        target_modules=r"(?:.*?(?:language|text).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.q_proj)",
        auto_mapping={"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True},
        loftq_config={},
        modules_to_save=None,
    ),
    "Axolotl": dict(peft_type="LORA", r=4, lora_alpha=6, target_modules=["q_proj"], layers_to_transform=[0, 1, 2]),
    "LLaMA-Factory": dict(peft_type="LORA", r=4, lora_alpha=6, target_modules=[], exclude_modules=["v_proj"]),
    "TRL": dict(peft_type="LORA", r=4, lora_alpha=6, target_modules=["q_proj"], rank_pattern={"v_proj": 7}),
    "PEFT with patterns": dict(
        peft_type="LORA", r=9, lora_alpha=1, target_modules=["q"], rank_pattern={".*": 4}, alpha_pattern={".*": 6}
    ),
}


@pytest.mark.parametrize("tool", CONFIGS)
def test_the_tensors_say_what_is_adapted(tool: str, adapter: Path, original: Path, base: Any, tokens: Any) -> None:
    only(adapter, **CONFIGS[tool])
    expected, found = (load_peft_pretrained(base, path)[0](jnp.asarray(tokens)) for path in (original, adapter))
    assert np.array_equal(found, expected)


def copies(folder: Path, **keys: str) -> Tensors:
    tensors = load_file(folder / "model.safetensors")
    return {PREFIX + key: tensors[name] for key, name in keys.items()}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lm_head.base_layer.weight", HEAD),
        ("lm_head.weight", HEAD),
        ("model.embed_tokens.weight", EMBEDDING),
        ("model.embed_tokens.base_layer.weight", EMBEDDING),
        ("lm_head.modules_to_save.weight", HEAD),
        ("lm_head.original_module.weight", HEAD),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_copies_of_base_weights_load_if_they_are_equal(
    key: str, name: str, streamed: bool, adapter: Path, original: Path, folder: Path, base: Any
) -> None:
    converter = HFCheckpointConverter.from_hf(str(folder))

    def load(path: Path) -> Any:
        if streamed:
            return load_peft_pretrained(converter.checked_structure(), path, base=converter.reader())[0]
        return load_peft_pretrained(base, path)[0]

    rewrite(adapter, extra=copies(folder, **{key: name}))
    for ours, theirs in zip(lora_layers(load(adapter)).values(), lora_layers(load(original)).values(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours.factors, theirs.factors, strict=True))
    changed = copies(folder, **{key: name})
    changed[PREFIX + key][3, 5] += 2.0**-10
    rewrite(adapter, extra=changed)
    with pytest.raises(UserError, match=rf"{key}: differs from the base model's {name}.*\n?.*merge_and_unload"):
        load(adapter)
    rewrite(adapter, extra={PREFIX + key: np.zeros((400, 32), np.float32)})
    with pytest.raises(UserError, match=rf"{key}: \[400, 32\], where .* the vocabulary was resized"):
        load(adapter)


@pytest.mark.parametrize("save_embedding_layers", ["auto", True])
@pytest.mark.parametrize("targets", [["lm_head", "q_proj"], ["embed_tokens", "q_proj"], ["q_proj"]], ids=str)
def test_what_peft_saves_again_loads(
    targets: list[str], save_embedding_layers: Any, folder: Path, base: Any, tokens: np.ndarray, tmp_path: Path
) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM")
    theirs: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=save_embedding_layers)
    ours, _ = load_peft_pretrained(base, tmp_path)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(ours(jnp.asarray(tokens)), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


A = np.ones((4, 32), np.float32)
REFUSED: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "DoRA": ({}, dict(use_dora=True), "use_dora: true is not implemented"),
    "DoRA's tensors": ({f"{PREFIX}lm_head.lora_magnitude_vector": A}, {}, "lora_magnitude_vector: DoRA's magnitudes"),
    "a bias of the adapter": ({f"{PREFIX}lm_head.lora_B.bias": A}, {}, r"lora_B\.bias: a bias of the adapter"),
    "modules trained whole": ({}, dict(modules_to_save=["lm_head"]), "modules_to_save: 'lm_head' was trained whole"),
    "two adapters": (
        {f"{PREFIX}model.layers.0.mlp.up_proj.lora_A.other.weight": A},
        {},
        "keys are of 2 adapters: .*lora_A.* and .*other",
    ),
    "a key twice": ({"lm_head.lora_A.weight": A}, {}, "means the same tensor as"),
    "MLX": ({}, dict(fine_tune_type="lora", lora_parameters={"rank": 8}), "an adapter of MLX .*mlx_lm.fuse"),
    "an unknown key": ({f"{PREFIX}model.layers.0.mlp.c_fc.lora_A.weight": A}, {}, "c_fc.lora_A.weight: extra"),
    "a factor under another layer's name": ({f"{PREFIX}lm_head.lora_embedding_A": A}, {}, "lora_embedding_A: extra"),
    "ranks that the tensors do not have": (
        {},
        dict(rank_pattern={"lm_head": 2}),
        r"\[4, 32\], this model needs \[2",
    ),
    "a pattern that is no rank": ({}, dict(rank_pattern={"lm_head": "x"}), "rank_pattern: lm_head: 'x' must be"),
    "a list of patterns": ({}, dict(alpha_pattern=["lm_head"]), "alpha_pattern: must be an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_something_else_is_refused_by_name(case: str, adapter: Path, base: Any) -> None:
    extra, fields, said = REFUSED[case]
    rewrite(adapter, extra=extra, **fields)
    with pytest.raises(UserError, match=said):
        load_peft_pretrained(base, adapter)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("verb", ["merge", "load", "save"])
def test_what_is_not_finite_is_refused_by_name(
    verb: str, value: float, adapter: Path, base: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"{PREFIX}model.layers.1.self_attn.q_proj.lora_B.weight"
    tensors = load_file(adapter / "adapter_model.safetensors")
    if verb == "save":
        config = LoraConfig(target_modules=["q_proj"], r=4)
        model = loraize(base, config, key=jax.random.key(0))
        (name, layer), *_ = lora_layers(model).items()
        spoilt = with_factors(model, {name: (layer.factors[0], layer.factors[1].at[1, 2, 3].set(value))})
        with pytest.raises(UserError, match=rf"not finite .*\n  {key}"):
            save_peft_pretrained(spoilt, config, "base", tmp_path / "saved")
        assert not (tmp_path / "saved").exists()
        return
    tensors[key][2, 3] = value
    save_file(tensors, adapter / "adapter_model.safetensors")
    if verb == "load":
        with pytest.raises(UserError, match=rf"not loaded: .* not finite .*\n  {key}"):
            load_peft_pretrained(base, adapter)
        return
    assert main(["merge", "--adapter", str(adapter), "--output", str(tmp_path / "merged")]) == 1
    assert key in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_a_tied_embedding_or_head_is_refused_with_the_reason(adapter: Path, make_model: Any) -> None:
    tied = HFCheckpointConverter.from_hf(str(make_model(tie_word_embeddings=True)[0])).load_pretrained()
    with pytest.raises(UserError, match=r"lm_head\.lora_A\.weight: extra; this model's output head is its embedding"):
        load_peft_pretrained(tied, adapter)
    for target in ("lm_head", "embed_tokens"):
        with pytest.raises(UserError, match=r"tie_word_embeddings: true.*first save the base with"):
            loraize(tied, LoraConfig(target_modules=[target]), key=jax.random.key(0))


def test_merging_streams_to_the_bytes_of_a_loaded_base(adapter: Path, folder: Path, base: Any, tmp_path: Path) -> None:
    for name, dtype in (("files", None), ("bf16", "bfloat16")):
        flags = [] if dtype is None else ["--dtype", dtype]
        assert main(["merge", "--adapter", str(adapter), "--output", str(tmp_path / name), *flags]) == 0
        converter = HFCheckpointConverter.from_hf(str(folder))
        model, _ = load_peft_pretrained(base, adapter)
        converter.save_pretrained(model, tmp_path / f"{name} loaded", dtype=None if dtype is None else jnp.dtype(dtype))
        found, expected = (tmp_path / n / "model.safetensors" for n in (name, f"{name} loaded"))
        assert found.read_bytes() == expected.read_bytes()
