"""Adapters both ways between lodos and PEFT, compared by what they compute."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lodos.errors import UserError
from lodos.formats import safetensors_writer
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained, peft_state_dict, save_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.lora.transform import lora_layers, loraize, with_factors

CASES = {
    "llama": ("llama", {}, LoraConfig(r=4, alpha=6.0)),
    "llama tied": ("llama", dict(tie_word_embeddings=True), LoraConfig(r=4, alpha=9.0, use_rslora=True)),
    "llama biases": ("llama", dict(attention_bias=True, mlp_bias=True), LoraConfig(r=2, dropout=0.1)),
    "one layer": ("llama", {}, LoraConfig(target_modules=["layers.1.mlp.down_proj", "q_proj"], r=3)),
    "patterns": (
        "llama",
        {},
        LoraConfig(
            r=4,
            alpha=6.0,
            rank_pattern={"layers.1.self_attn.q_proj": 2, "down_proj": 6},
            alpha_pattern={"layers.2.self_attn.q_proj": 9.0, "down_proj": 3.5},
        ),
    ),
    "embedding and head": (
        "llama",
        {},
        LoraConfig(target_modules=["embed_tokens", "lm_head"], r=3, rank_pattern={"embed_tokens": 5}),
    ),
    "embedding": (
        "qwen3",
        dict(head_dim=16, tie_word_embeddings=False),
        LoraConfig(r"model\.embed_tokens", use_rslora=True),
    ),
    "output head": ("llama", {}, LoraConfig(target_modules=["lm_head", "k_proj"], r=3)),
    "mistral": ("mistral", dict(sliding_window=8), LoraConfig(target_modules=r".*\.(k|o)_proj", r=5)),
    "qwen2": ("qwen2", {}, LoraConfig(r=4)),
    "qwen3": ("qwen3", dict(head_dim=16), LoraConfig(r=4, exclude_modules=["up_proj"])),
}


def trained(base: Any, config: LoraConfig, seed: int = 1) -> Any:
    """A loraized model whose factors are all random, as after training.

    The update is about as large as the weight: a much larger one makes attention so sharp that float32 itself is off
    by 1e-4, in torch and here alike.
    """
    model = loraize(base, config, key=jax.random.key(seed))
    factors = {}
    for index, (name, layer) in enumerate(lora_layers(model).items()):
        key_A, key_B = jax.random.split(jax.random.fold_in(jax.random.key(seed), index))
        factors[name] = (
            0.15 * jax.random.normal(key_A, layer.factors[0].shape),
            0.15 * jax.random.normal(key_B, layer.factors[1].shape),
        )
    return with_factors(model, factors)


def torch_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.numpy()


def assert_close(found: Any, expected: np.ndarray, rel: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=rel * np.abs(expected).max())


@pytest.fixture
def saved(make_model: Any, tmp_path: Path) -> tuple[Any, Any, Path]:
    """A base model, a trained model on it and its adapter folder."""
    folder, _ = make_model()
    base = HFCheckpointConverter.from_hf(str(folder)).load_pretrained()
    model = trained(base, LoraConfig(r=4, alpha=6.0))
    save_peft_pretrained(model, LoraConfig(r=4, alpha=6.0), str(folder), tmp_path / "adapter")
    return base, model, tmp_path / "adapter"


@pytest.mark.parametrize("case", CASES)
def test_peft_computes_what_we_compute_and_saves_the_same_tensors(
    case: str, make_model: Any, tokens: np.ndarray, tmp_path: Path
) -> None:
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    model_type, shape, config = CASES[case]
    folder, torch_model = make_model(model_type, **shape)
    model = trained(HFCheckpointConverter.from_hf(str(folder)).load_pretrained(), config)
    save_peft_pretrained(model, config, str(folder), tmp_path / "ours")

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected).*keys.*")
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / "ours"))
    ours = np.asarray(model(jnp.asarray(tokens)))
    assert_close(ours, torch_logits(theirs, tokens))
    assert np.abs(ours - torch_logits(torch_model, tokens)).max() > 0.1  # and not what the base computes

    state = {
        name: tensor.numpy() for name, tensor in get_peft_model_state_dict(theirs, save_embedding_layers=False).items()
    }
    written = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert state.keys() == written.keys()
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    again = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert again.keys() == written.keys()
    assert all(np.array_equal(again[name], written[name]) for name in written)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], r".*layers\.[02]\..*_proj"])
def test_we_compute_what_an_adapter_made_by_peft_computes(
    targets: Any, use_rslora: bool, make_model: Any, tokens: np.ndarray, tmp_path: Path
) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    folder, _ = make_model()
    config = peft.LoraConfig(
        r=4, lora_alpha=7, target_modules=targets, use_rslora=use_rslora, lora_dropout=0.1, task_type="CAUSAL_LM"
    )
    torch.manual_seed(0)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "theirs")

    base = HFCheckpointConverter.from_hf(str(folder)).load_pretrained()
    ours, loaded = load_peft_pretrained(base, tmp_path / "theirs")
    assert_close(ours(jnp.asarray(tokens)), torch_logits(theirs, tokens))
    assert (loaded.r, loaded.alpha, loaded.dropout, loaded.use_rslora) == (4, 7.0, 0.1, use_rslora)


def test_saving_what_was_loaded_gives_the_same_bytes(saved: tuple[Any, Any, Path], tmp_path: Path) -> None:
    base, _, adapter = saved
    model, config = load_peft_pretrained(base, adapter)
    named_base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    save_peft_pretrained(model, config, named_base, tmp_path / "again")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (adapter / name).read_bytes()


def test_the_folder_is_complete(saved: tuple[Any, Any, Path]) -> None:
    from huggingface_hub import ModelCard

    _, model, adapter = saved
    with safe_open(adapter / "adapter_model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 6, "CAUSAL_LM")
    assert ModelCard.load(adapter / "README.md").data.library_name == "peft"
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= {p.name for p in adapter.iterdir()}
    assert len(peft_state_dict(model)) == 2 * 3 * 7


def test_an_adapter_that_changes_nothing_is_refused(saved: tuple[Any, Any, Path], tmp_path: Path) -> None:
    base, _, adapter = saved
    fresh = loraize(base, LoraConfig(r=4), key=jax.random.key(0))
    with pytest.raises(UserError, match="every lora_B is zero"):
        save_peft_pretrained(fresh, LoraConfig(r=4), str(adapter), tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()
    tensors = load_file(adapter / "adapter_model.safetensors")
    zeros = {name: np.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in tensors.items()}
    save_file(zeros, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="not loaded: every lora_B is zero"):
        load_peft_pretrained(base, adapter)


def test_what_is_not_implemented_is_refused_by_name(saved: tuple[Any, Any, Path]) -> None:
    base, _, adapter = saved
    config = json.loads((adapter / "adapter_config.json").read_text())
    unknown = {
        "use_dora": True,
        "layer_replication": [[0, 2]],
        "trainable_token_indices": [1, 2],
        "lora_bias": True,
        "bias": "all",
        "init_lora_weights": "pissa",
        "fan_in_fan_out": True,
        "invented_tomorrow": 1,
    }
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **unknown}))
    with pytest.raises(UserError) as error:
        load_peft_pretrained(base, adapter)
    assert all(f"{name}: " in str(error.value) for name in unknown)


def test_every_tensor_that_does_not_fit_is_listed(saved: tuple[Any, Any, Path]) -> None:
    base, _, adapter = saved
    tensors = load_file(adapter / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn"
    del tensors[f"{prefix}.q_proj.lora_A.weight"]
    tensors[f"{prefix}.k_proj.lora_A.weight"] = np.ones((4, 7), np.float32)
    tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = np.ones((4, 32), np.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError) as error:
        load_peft_pretrained(base, adapter)
    text = str(error.value)
    assert f"{prefix}.q_proj.lora_A.weight: missing" in text
    assert f"{prefix}.k_proj.lora_A.weight: the file has [4, 7], this model needs [4, 32]" in text
    assert "layers.9.self_attn.q_proj.lora_A.weight: extra" in text


def test_a_pickle_is_refused_with_the_reason(saved: tuple[Any, Any, Path]) -> None:
    base, _, adapter = saved
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="pickle, which can run any code"):
        load_peft_pretrained(base, adapter)


def test_what_comes_back_different_is_never_left_on_disk(
    saved: tuple[Any, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, adapter = saved
    before = (adapter / "adapter_model.safetensors").read_bytes()

    def corrupted(path: Path) -> None:
        save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})

    monkeypatch.setattr(safetensors_writer, "flush", corrupted)
    for place in (tmp_path / "new", adapter):
        with pytest.raises(OSError, match="read back differently"):
            save_peft_pretrained(model, LoraConfig(r=4), str(adapter), place, base_folder=adapter)
    assert not (tmp_path / "new").exists()
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_bytes_do_not_depend_on_the_hash_seed(make_model: Any, tmp_path: Path) -> None:
    folder, _ = make_model()
    script = (
        "import sys, jax; from lodos import *\n"
        "base, path = sys.argv[1:]\n"
        "model = loraize(HFCheckpointConverter.from_hf(base).load_pretrained(), LoraConfig(r=2, init='zero_a'), "
        "key=jax.random.key(0))\n"
        "save_peft_pretrained(model, LoraConfig(r=2), base, path, allow_untrained=True)\n"
    )
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(folder), str(tmp_path / seed)], check=True, env=environment)
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
