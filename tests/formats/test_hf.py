"""Model folders in and out: transformers computes with a merged folder what the adapted model computes here."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lodos.errors import UserError
from lodos.formats import safetensors_writer
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.lora.transform import lora_layers, loraize, with_factors
from lodos.models.vocabulary import resize_vocab

pytest.importorskip("torch")

MakeModel = Callable[..., tuple[Path, Any]]

CASES: dict[str, tuple[str, dict[str, Any], LoraConfig]] = {
    "llama": ("llama", {}, LoraConfig(r=4, alpha=6.0)),
    "llama tied": ("llama", dict(tie_word_embeddings=True), LoraConfig(r=4, alpha=9.0, use_rslora=True)),
    "llama biases": ("llama", dict(attention_bias=True, mlp_bias=True), LoraConfig(r=2, dropout=0.1)),
    "one layer": ("llama", {}, LoraConfig(target_modules=["layers.1.mlp.down_proj", "q_proj"], r=3)),
    "output head": ("llama", {}, LoraConfig(target_modules=["lm_head", "k_proj"], r=3)),
    "mistral": ("mistral", dict(sliding_window=8), LoraConfig(target_modules=r".*\.(k|o)_proj", r=5)),
    "qwen2": ("qwen2", {}, LoraConfig(r=4)),
    "qwen3": ("qwen3", dict(head_dim=16), LoraConfig(r=4)),
}
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def converter(folder: Path) -> HFCheckpointConverter:
    return HFCheckpointConverter.from_hf(str(folder))


def adapted(base: Any, config: LoraConfig) -> Any:
    """A loraized model whose factors are random multiples of 1/64, so that float32 holds every product of them."""
    model = loraize(base, config, key=jax.random.key(0))
    rng = np.random.default_rng(0)

    def factor(like: Any) -> jax.Array:
        return jnp.asarray(rng.integers(-16, 17, like.shape) / 64, jnp.float32)

    return with_factors(
        model, {name: (factor(layer.lora_A), factor(layer.lora_B)) for name, layer in lora_layers(model).items()}
    )


@eqx.filter_jit
def forward(model: Any, tokens: Any) -> jax.Array:
    return model(tokens)


def logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Compiled once for all models of one shape."""
    return np.asarray(forward(model, jnp.asarray(tokens)))


def transformers_logits(folder: Path, tokens: np.ndarray, **options: Any) -> np.ndarray:
    """What plain transformers computes with the folder; no weight may be missing, left over or newly made."""
    import torch
    from transformers import AutoModelForCausalLM

    model, info = cast(Any, AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options))
    assert not any(info.values()), info
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.float().numpy()


def assert_close(found: np.ndarray, expected: np.ndarray, rel: float = 2e-5) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=rel * np.abs(expected).max())


def raw_tensors(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Each tensor of a folder as its dtype, shape and bytes, read from the files without any library."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                tensors[name] = (entry["dtype"], entry["shape"], content[start + begin : start + end])
    return tensors


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def base(make_model: MakeModel, tmp_path: Path) -> Path:
    """A float32 Llama folder that a test may change."""
    return Path(shutil.copytree(make_model()[0], tmp_path / "base"))


@pytest.fixture
def base_bf16(make_model: MakeModel, tmp_path: Path) -> Path:
    """The same in bfloat16."""
    import torch

    folder, model = make_model()
    shutil.copytree(folder, tmp_path / "base_bf16")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base_bf16")
    return tmp_path / "base_bf16"


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_with_the_merged_folder_what_the_adapted_model_computes(
    case: str, make_model: MakeModel, tokens: np.ndarray, tmp_path: Path
) -> None:
    model_type, shape, config = CASES[case]
    folder, _ = make_model(model_type, **shape)
    model = adapted(converter(folder).load_pretrained(), config)
    converter(folder).save_pretrained(model, tmp_path / "merged")
    ours = logits(model, tokens)
    assert_close(transformers_logits(tmp_path / "merged", tokens), ours)
    assert np.abs(ours - transformers_logits(folder, tokens)).max() > 0.1  # and not what the base computes


def test_a_bfloat16_weight_is_the_float32_sum_rounded_once(base_bf16: Path, tmp_path: Path) -> None:
    import torch

    model = adapted(converter(base_bf16).load_pretrained(), LoraConfig(r=4, alpha=6.0))
    converter(base_bf16).save_pretrained(model, tmp_path / "merged")
    before, after = load_file(base_bf16 / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    rounded_twice = 0
    for stacked_name, layer in lora_layers(model).items():
        for index in range(3):
            name = stacked_name.replace("*", str(index)) + ".weight"
            A, B = (np.asarray(factor[index], np.float64) for factor in (layer.lora_A, layer.lora_B))
            delta = 6.0 / 4 * (B @ A)  # exact
            total = (before[name].astype(np.float64) + delta).astype(np.float32)
            expected = torch.from_numpy(total).to(torch.bfloat16).view(torch.int16).numpy()
            assert after[name].dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(after[name].view(np.int16), expected)
            rounded_twice += np.sum(before[name] + delta.astype(ml_dtypes.bfloat16) != after[name])
    assert rounded_twice > 100  # rounding the update first would give other weights


@pytest.mark.parametrize("model_dtype", [None, "bfloat16"])
@pytest.mark.parametrize("fixture", ["base", "base_bf16"])
def test_what_no_adapter_touches_keeps_its_bytes(
    fixture: str, model_dtype: str | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Also where the model in memory has fewer bits than the files."""
    folder = request.getfixturevalue(fixture)
    config = LoraConfig(target_modules=["layers.1.self_attn.q_proj", "down_proj"], r=2)
    model = adapted(converter(folder).load_pretrained(dtype=model_dtype), config)
    converter(folder).save_pretrained(model, tmp_path / "merged")
    before, after = raw_tensors(folder), raw_tensors(tmp_path / "merged")
    assert before.keys() == after.keys()
    touched = {Q_PROJ, *(f"model.layers.{index}.mlp.down_proj.weight" for index in range(3))}
    assert {name for name in before if before[name] != after[name]} == touched


def test_the_update_is_added_to_the_files_weight_not_to_the_rounded_one_in_memory(base: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, alpha=6.0)
    for dtype in (None, jnp.bfloat16):
        model = adapted(converter(base).load_pretrained(dtype=dtype), config)
        converter(base).save_pretrained(model, tmp_path / str(dtype is None))
    assert raw_tensors(tmp_path / "True") == raw_tensors(tmp_path / "False")


def test_above_max_shard_size_the_weights_are_several_files_with_an_index(
    base: Path, tokens: np.ndarray, tmp_path: Path
) -> None:
    model = adapted(converter(base).load_pretrained(), LoraConfig(r=4))
    converter(base).save_pretrained(model, tmp_path / "whole")
    converter(base).save_pretrained(model, tmp_path / "sharded", max_shard_size="20KB")

    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 2
    found = {}
    for path in files:
        with safe_open(path, "np") as file:
            found |= dict.fromkeys(file.keys(), path.name)
        tensors = load_file(path)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 20_000 or len(tensors) == 1
    assert index["weight_map"] == found
    sizes = [len(content) for _, _, content in raw_tensors(tmp_path / "sharded").values()]
    assert index["metadata"]["total_size"] == sum(sizes)

    assert not (tmp_path / "whole" / "model.safetensors.index.json").exists()
    assert raw_tensors(tmp_path / "sharded") == raw_tensors(tmp_path / "whole")
    assert_close(transformers_logits(tmp_path / "sharded", tokens), logits(model, tokens))


def test_a_sharded_base_merges_to_the_same_tensors(make_model: MakeModel, tmp_path: Path) -> None:
    whole, theirs = make_model()
    sharded = Path(shutil.copytree(whole, tmp_path / "sharded"))
    (sharded / "model.safetensors").unlink()
    theirs.save_pretrained(sharded, max_shard_size="20KB")
    for folder, out in ((whole, "from whole"), (sharded, "from sharded")):
        model = adapted(converter(folder).load_pretrained(), LoraConfig(r=4))
        converter(folder).save_pretrained(model, tmp_path / out)
    assert raw_tensors(tmp_path / "from whole") == raw_tensors(tmp_path / "from sharded")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", jnp.bfloat16])
@pytest.mark.parametrize("fixture", ["base", "base_bf16"])
def test_the_dtype_asked_for_is_that_of_every_tensor_and_of_the_config(
    fixture: str, dtype: Any, request: pytest.FixtureRequest, tokens: np.ndarray, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(fixture)
    model = adapted(converter(folder).load_pretrained(dtype=jnp.float32), LoraConfig(r=4))
    converter(folder).save_pretrained(model, tmp_path / "merged", dtype=dtype)
    name = np.dtype(dtype).name
    assert {tensor.dtype.name for tensor in load_file(tmp_path / "merged" / "model.safetensors").values()} == {name}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == getattr(torch, name)
    in_float32 = transformers_logits(tmp_path / "merged", tokens, dtype=torch.float32)
    assert_close(in_float32, logits(model, tokens), rel=2e-5 if name == "float32" else 0.05)


def test_a_dtype_in_which_a_weight_would_become_infinite_is_refused(base: Path, tmp_path: Path) -> None:
    """float16 ends at 65504, where bfloat16 models may have larger weights."""
    model = converter(base).load_pretrained()
    model = eqx.tree_at(lambda tree: tree.model.norm.weight, model, replace_fn=lambda weight: weight.at[0].set(1e5))
    with pytest.raises(UserError, match=r"(?s)model\.norm\.weight.*float16"):
        converter(base).save_pretrained(model, tmp_path / "out", dtype="float16")


def test_the_old_spelling_of_the_dtype_does_not_survive_beside_the_new(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    converter(base).save_pretrained(converter(base).load_pretrained(), tmp_path / "out", dtype="float16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == {**config, "dtype": "float16"}


def test_the_config_is_otherwise_the_base_models(base: Path, tmp_path: Path) -> None:
    edit_json(base / "config.json", a_field_that_nobody_knows={"kept": [1, 2]})
    converter(base).save_pretrained(converter(base).load_pretrained(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads((base / "config.json").read_text())


@pytest.mark.parametrize(
    ("declared", "expected"), [(None, 1), (1, 1), (3, [3, 1]), ([3], [3, 1]), ([3, 1], [3, 1]), ([1], 1)]
)
def test_the_generation_config_is_carried_over_and_ends_at_the_tokenizers_eos(
    declared: Any, expected: Any, base: Path, tmp_path: Path
) -> None:
    from transformers import GenerationConfig

    assert converter(base).tokenizer.eos_token_id == 1
    settings = {"temperature": 0.25, "do_sample": True}
    eos = {} if declared is None else {"eos_token_id": declared}
    (base / "generation_config.json").write_text(json.dumps({**settings, **eos}))
    converter(base).save_pretrained(converter(base).load_pretrained(), tmp_path / "out")
    found = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (found.temperature, found.do_sample, found.eos_token_id) == (0.25, True, expected)


def test_a_base_without_a_generation_config_gets_one_that_ends_answers(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").unlink()
    edit_json(base / "config.json", eos_token_id=3)
    converter(base).save_pretrained(converter(base).load_pretrained(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": [3, 1]}


def test_tokenizer_chat_template_and_licence_go_along(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (base / "LICENSE.txt").write_text("Do as you like.")
    converter(base).save_pretrained(converter(base).load_pretrained(), tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    before, after = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "Below is an instruction.\n"}]
    assert after.apply_chat_template(messages, tokenize=False) == before.apply_chat_template(messages, tokenize=False)
    assert after(messages[0]["content"]).input_ids == before(messages[0]["content"]).input_ids


def test_every_chat_template_of_the_base_goes_along(base: Path, tmp_path: Path) -> None:
    """transformers keeps the templates but the default one in a folder of their own."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(base)
    converter(base).save_pretrained(converter(base).load_pretrained(), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template


def test_nothing_else_of_the_base_folder_goes_along(base: Path, tmp_path: Path) -> None:
    (base / "modeling_evil.py").write_text("raise SystemExit")
    (base / "pytorch_model.bin").write_bytes(b"stale")
    converter(base).save_pretrained(converter(base).load_pretrained(), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "lodos-manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("head_in_file", [False, True])
def test_a_tied_head_is_written_if_the_base_file_has_it_and_is_the_embedding(
    head_in_file: bool, make_model: MakeModel, tokens: np.ndarray, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make_model(tie_word_embeddings=True)[0], tmp_path / "tied"))
    if head_in_file:
        tensors = load_file(folder / "model.safetensors")
        tensors[HEAD] = tensors[EMBEDDING].copy()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = converter(folder).load_pretrained()
    assert model.lm_head is None
    model = eqx.tree_at(lambda tree: tree.model.embed_tokens.weight, model, replace_fn=lambda weight: weight * 1.5)
    converter(folder).save_pretrained(model, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert (HEAD in written) == head_in_file
    for name in {EMBEDDING, HEAD} & written.keys():
        np.testing.assert_array_equal(written[name], model.model.embed_tokens.weight)
    assert_close(transformers_logits(tmp_path / "out", tokens), logits(model, tokens))


LEAVES: dict[str, Callable[[Any], Any]] = {
    "model.embed_tokens.weight": lambda tree: tree.model.embed_tokens.weight,
    "model.norm.weight": lambda tree: tree.model.norm.weight,
    "lm_head.weight": lambda tree: tree.lm_head.weight,
    "model.layers.*.input_layernorm.weight": lambda tree: tree.model.layers.stacked.input_layernorm.weight,
    "model.layers.*.mlp.up_proj.weight": lambda tree: tree.model.layers.stacked.mlp.up_proj.weight,
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_that_training_changed_is_saved_and_only_that(
    name: str, base: Path, tokens: np.ndarray, tmp_path: Path
) -> None:
    model = converter(base).load_pretrained()
    trained = eqx.tree_at(LEAVES[name], model, replace_fn=lambda weight: weight * 1.25)
    converter(base).save_pretrained(trained, tmp_path / "out")
    before, after = raw_tensors(base), raw_tensors(tmp_path / "out")
    changed = {tensor for tensor in before if before[tensor] != after[tensor]}
    assert changed == {name.replace("*", str(index)) for index in range(3)}
    assert_close(transformers_logits(tmp_path / "out", tokens), logits(trained, tokens))


def test_a_base_weight_trained_beneath_its_adapter_is_saved_with_both(
    base: Path, tokens: np.ndarray, tmp_path: Path
) -> None:
    model = adapted(converter(base).load_pretrained(), LoraConfig(target_modules=["q_proj"], r=2))
    model = eqx.tree_at(
        lambda tree: tree.model.layers.stacked.self_attn.q_proj.base_layer.weight, model, replace_fn=lambda w: w * 1.25
    )
    converter(base).save_pretrained(model, tmp_path / "out")
    assert_close(transformers_logits(tmp_path / "out", tokens), logits(model, tokens))


def test_a_write_that_comes_back_different_leaves_the_old_folder_in_place(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = converter(base).load_pretrained()
    converter(base).save_pretrained(model, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}

    def flip_one_bit(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(safetensors_writer, "flush", flip_one_bit)
    for place in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(OSError, match="read back differently"):
            converter(base).save_pretrained(adapted(model, LoraConfig(r=4)), place)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "old"]


def test_a_folder_can_be_merged_onto_itself(base: Path, tokens: np.ndarray) -> None:
    model = adapted(converter(base).load_pretrained(), LoraConfig(r=4))
    converter(base).save_pretrained(model, base)
    assert_close(transformers_logits(base, tokens), logits(model, tokens))


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", jnp.float16])
def test_weights_are_loaded_in_the_dtype_asked_for_and_rounded_as_torch_does(dtype: Any, base_bf16: Path) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = converter(base_bf16).load_pretrained(dtype=dtype)
    expected = np.dtype(dtype or jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {expected}
    theirs = AutoModelForCausalLM.from_pretrained(base_bf16, dtype=expected.name).get_parameter(Q_PROJ)
    np.testing.assert_array_equal(
        np.asarray(model.model.layers.stacked.self_attn.q_proj.weight[1], np.float32), theirs.detach().float().numpy()
    )


def test_scanned_and_unrolled_layers_hold_the_same_weights_and_give_the_same_logits(
    base: Path, tokens: np.ndarray, tmp_path: Path
) -> None:
    scanned = converter(base).load_pretrained(scan_layers=True)
    unrolled = converter(base).load_pretrained(scan_layers=False)
    assert (scanned.model.layers.scan, unrolled.model.layers.scan) == (True, False)
    assert_close(logits(unrolled, tokens), logits(scanned, tokens))
    converter(base).save_pretrained(adapted(unrolled, LoraConfig(r=4)), tmp_path / "unrolled")
    converter(base).save_pretrained(adapted(scanned, LoraConfig(r=4)), tmp_path / "scanned")
    assert raw_tensors(tmp_path / "unrolled") == raw_tensors(tmp_path / "scanned")


ON_A_MESH = """
import sys, jax, numpy as np
from lodos.formats.hf import HFCheckpointConverter
from lodos.tree import named_leaves

base, out = sys.argv[1:]
converter = HFCheckpointConverter.from_hf(base)
whole = named_leaves(converter.load_pretrained())

def load(axis_mapping):
    model = converter.load_pretrained(axis_mapping=axis_mapping)
    for name, leaf in named_leaves(model).items():
        assert len(leaf.sharding.device_set) == 4, name
        np.testing.assert_array_equal(leaf, whole[name])
    return model

def shard(array):
    return array.addressable_shards[3].data.shape

mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
with jax.set_mesh(mesh):
    assert shard(load({"layers": "data"}).model.layers.stacked.mlp.up_proj.weight) == (2, 48, 32)
    model = load({"embed": "data", "mlp": "model", "vocab": ("data", "model")})
    assert shard(model.model.layers.stacked.mlp.up_proj.weight) == (4, 24, 16)
    assert shard(model.lm_head.weight) == (329, 16)  # four devices do not divide 329 rows
    converter.save_pretrained(model, out, dtype="bfloat16")
"""


def test_weights_are_read_into_the_layout_of_the_mesh(make_model: MakeModel, tmp_path: Path) -> None:
    """In a process of its own, which has four devices; what is saved from there is what one device saves."""
    folder, _ = make_model(num_hidden_layers=4)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", ON_A_MESH, str(folder), str(tmp_path / "mesh")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    converter(folder).save_pretrained(converter(folder).load_pretrained(), tmp_path / "one", dtype="bfloat16")
    assert raw_tensors(tmp_path / "mesh") == raw_tensors(tmp_path / "one")


def test_a_folder_without_a_tokenizer_is_refused_and_nothing_is_left(base: Path, tmp_path: Path) -> None:
    """Without it nobody could say where an answer ends."""
    for path in base.glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        converter(base).save_pretrained(converter(base).load_pretrained(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("case", ["separate head", "tied", "tied, with the head in the file"])
def test_a_vocabulary_that_has_grown_is_written_with_its_tokenizer(
    case: str, make_model: MakeModel, tokens: np.ndarray, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = make_model(tie_word_embeddings=case != "separate head")
    if case == "tied, with the head in the file":
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, HEAD: tensors[EMBEDDING]}, folder / "model.safetensors", metadata={"format": "pt"})
    padded = converter(folder).with_pad_token("<pad>")
    rows = padded.config.vocab_size
    assert padded.vocab_size == rows + 1
    model = resize_vocab(padded.load_pretrained(), padded.vocab_size)
    padded.save_pretrained(model, tmp_path / "grown")

    written = AutoTokenizer.from_pretrained(tmp_path / "grown")
    assert (written.pad_token, written.pad_token_id, len(written)) == ("<pad>", rows, rows + 1)
    theirs, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "grown", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["mismatched_keys"]
    assert (theirs.config.vocab_size, theirs.config.pad_token_id) == (rows + 1, rows)
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(np.asarray(model(tokens)), logits, atol=1e-4 * np.abs(logits).max())
    # The old rows are the base's, bit for bit.
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "grown" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name][: len(before[name])]) for name in before)
    assert converter(tmp_path / "grown").load_pretrained().config.vocab_size == rows + 1


def test_a_tokenizer_that_has_a_pad_token_stays_as_it_is(make_model: MakeModel, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder, _ = make_model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = "</s>"
    tokenizer.save_pretrained(folder)
    base = converter(folder)
    assert base.with_pad_token() is base
    base.save_pretrained(base.load_pretrained(), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("also_known", [True, False])
def test_code_that_a_folder_brings_is_never_run(base: Path, tmp_path: Path, also_known: bool) -> None:
    """A tokenizer, config and model of the repository's own: a canary dies when anybody looks at it."""
    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(base, folder)
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Own: pass\n", encoding="utf-8")
    for name, kinds in (("config.json", ("AutoConfig", "AutoModelForCausalLM")), ("tokenizer_config.json", ())):
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
        fields["auto_map"] = dict.fromkeys(kinds, "own.Own") or {"AutoTokenizer": ["own.Own", "own.Own"]}
        if "tokenizer_class" in fields and not also_known:
            fields["tokenizer_class"] = "OwnTokenizer"
        (folder / name).write_text(json.dumps(fields), encoding="utf-8")
    converter = HFCheckpointConverter.from_hf(str(folder))
    if also_known:
        assert len(converter.tokenizer) == converter.config.vocab_size
    else:
        with pytest.raises(UserError, match=r"Python code of the repository's.*never run.*tokenizer\.json"):
            _ = converter.tokenizer
    converter.load_pretrained()
    assert not canary.exists()
