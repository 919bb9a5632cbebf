"""From GGUF to a Hugging Face folder: what llama.cpp's conversion did is undone, and transformers computes the same.

The GGUF files are made here from a tiny model by the rules of llama.cpp's convert_hf_to_gguf.py, which are written
out below: the names, and the reordered rows of q and k.
"""

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from safetensors.numpy import load_file

from lodos.errors import UserError
from lodos.formats.gguf import convert_gguf
from lodos.formats.gguf_rotation import rows_for_half_rotation

MakeModel = Callable[..., tuple[Path, Any]]
Fields = dict[str, Any]
Tensors = dict[str, np.ndarray]
Parts = tuple[Fields, Tensors]

HEADS, KV_HEADS = 4, 2  # of make_model in conftest.py
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")  # of tiny_tokenizer
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def gguf_parts(model: Any, tokenizer: Any, pre: str = "gpt-2") -> Parts:
    """The settings and tensors of a torch Llama and its tokenizer, as llama.cpp would write them."""
    config, bpe = model.config, json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    fields = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "llama.rope.dimension_count": config.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if token in SPECIAL else NORMAL for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in bpe["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    tensors = {}
    for name, parameter in model.state_dict().items():
        weight = parameter.numpy()
        if "q_proj" in name:
            weight = permuted(weight, HEADS)
        if "k_proj" in name:
            weight = permuted(weight, KV_HEADS)
        if not (name == "lm_head.weight" and config.tie_word_embeddings):
            tensors[gguf_name(name)] = weight
    return fields, tensors


def write_gguf(
    path: Path,
    fields: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    architecture: str = "llama",
    types: Mapping[str, GGMLQuantizationType] | None = None,
) -> Path:
    """Writes a GGUF file; a tensor that `types` names is given as the bytes of that type."""
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", list: "ARRAY"}
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        writer.add_key_value(name, value, gguf.GGUFValueType[kinds[type(value)]])
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor), raw_dtype=(types or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def transformers_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.numpy()


def loaded(folder: Path) -> Any:
    """The folder in transformers; no weight may be missing, left over or newly made."""
    from transformers import AutoModelForCausalLM

    model, info = cast(Any, AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True))
    assert not any(info.values()), info
    return model


@pytest.fixture
def parts(make_model: MakeModel, tiny_tokenizer: Any) -> Parts:
    """What a sound GGUF file holds; a test may change it."""
    return gguf_parts(make_model()[1], tiny_tokenizer)


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Path]:
    """`convert(fields, tensors)`: the folder that the GGUF file of these becomes."""

    def convert(fields: Fields, tensors: Tensors, **options: Any) -> Path:
        convert_gguf(write_gguf(tmp_path / "model.gguf", fields, tensors, **options), tmp_path / "converted")
        return tmp_path / "converted"

    return convert


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True},
        {"head_dim": 16},
        {"rms_norm_eps": 0.03, "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
    ],
    ids=str,
)
def test_transformers_computes_with_the_folder_what_the_original_computes(
    shape: dict[str, Any], make_model: MakeModel, tiny_tokenizer: Any, tokens: np.ndarray, convert: Any
) -> None:
    _, original = make_model(**shape)
    found = loaded(convert(*gguf_parts(original, tiny_tokenizer)))
    np.testing.assert_array_equal(transformers_logits(found, tokens), transformers_logits(original, tokens))


@pytest.mark.parametrize("tied", [False, True])
def test_the_config_is_that_of_the_original(
    tied: bool, make_model: MakeModel, tiny_tokenizer: Any, convert: Any
) -> None:
    _, original = make_model(tie_word_embeddings=tied, rms_norm_eps=1e-5)
    found = json.loads((convert(*gguf_parts(original, tiny_tokenizer)) / "config.json").read_text())
    expected = original.config.to_diff_dict()
    assert {name: found.get(name) for name in expected} == expected
    assert found["rms_norm_eps"] == 1e-5  # not 9.999999747378752e-06


def test_rows_are_put_back_as_llama_cpp_permuted_them() -> None:
    weight = np.arange(4 * 8 * 3).reshape(32, 3)
    assert not np.array_equal(permuted(weight, 4), weight)
    np.testing.assert_array_equal(rows_for_half_rotation(permuted(weight, 4), 4), weight)
    np.testing.assert_array_equal(rows_for_half_rotation(permuted(weight[:, 0], 4), 4), weight[:, 0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_plain_tensors_are_widened_to_float32_without_loss(dtype: Any, parts: Parts, convert: Any) -> None:
    fields, tensors = parts
    tensors["blk.1.ffn_up.weight"] = tensors["blk.1.ffn_up.weight"].astype(dtype)
    written = load_file(convert(fields, tensors) / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(written["model.layers.1.mlp.up_proj.weight"], tensors["blk.1.ffn_up.weight"])


def q8_0_values(blocks: np.ndarray) -> np.ndarray:
    """Q8_0 by its definition in ggml: blocks of a float16 scale and 32 int8."""
    blocks = blocks.reshape(len(blocks), -1, 34)
    scale = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    return (scale * blocks[..., 2:].view(np.int8)).reshape(len(blocks), -1)


def test_q8_0_tensors_become_the_values_they_stand_for(parts: Parts, tokens: np.ndarray, convert: Any) -> None:
    fields, tensors = parts
    names = {name for name, tensor in tensors.items() if tensor.ndim == 2 and tensor.shape[1] % 32 == 0}
    assert {"token_embd.weight", "blk.0.attn_q.weight", "blk.2.ffn_gate.weight", "output.weight"} <= names
    quantised = {name: quantize(tensors[name], GGMLQuantizationType.Q8_0) for name in names}
    folder = convert(fields, {**tensors, **quantised}, types=dict.fromkeys(names, GGMLQuantizationType.Q8_0))
    written = load_file(folder / "model.safetensors")
    for name, tensor in written.items():
        expected = tensors[gguf_name(name)]
        if gguf_name(name) in names:
            exact = q8_0_values(quantised[gguf_name(name)])
            assert 0 < np.abs(exact - expected).max() < np.abs(expected).max() / 200
            expected = exact
        heads = {"q": HEADS, "k": KV_HEADS}.get(name.split("_proj")[0][-1]) if "_proj" in name else None
        np.testing.assert_array_equal(tensor if heads is None else permuted(tensor, heads), expected)
    assert np.isfinite(transformers_logits(loaded(folder), tokens)).all()


def refused(parts: Parts, tmp_path: Path, match: str, **options: Any) -> str:
    """The error for a GGUF file of these parts, which must leave nothing behind."""
    source = write_gguf(tmp_path / "model.gguf", *parts, **options)
    with pytest.raises(UserError, match=match) as error:
        convert_gguf(source, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    return str(error.value)


def test_another_architecture_is_refused_by_name(parts: Parts, tmp_path: Path) -> None:
    refused(parts, tmp_path, "model.gguf: general.architecture is 'gemma2'; only llama", architecture="gemma2")


def test_tokenizers_that_are_not_understood_are_refused_with_every_reason(parts: Parts, tmp_path: Path) -> None:
    changes = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "invented",
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
    }
    text = refused(({**parts[0], **changes}, parts[1]), tmp_path, "model.gguf")
    assert "tokenizer.ggml.model: 'llama' is not understood" in text
    assert "tokenizer.ggml.pre: 'invented' is not understood; known: gpt-2, smollm" in text
    assert "add_bos_token: set" in text
    assert "add_space_prefix: set" in text
    assert "add_eos_token" not in text


def test_every_tensor_that_is_missing_extra_or_misshapen_is_listed(parts: Parts, tmp_path: Path) -> None:
    fields, tensors = parts
    del tensors["blk.1.ffn_up.weight"]
    tensors["blk.0.attn_q_norm.weight"] = np.ones(8, np.float32)
    tensors["blk.2.attn_k.weight"] = tensors["blk.2.attn_k.weight"].T
    text = refused((fields, tensors), tmp_path, "not those of a plain Llama")
    assert "blk.1.ffn_up.weight: missing" in text
    assert "blk.0.attn_q_norm.weight: not understood" in text
    assert "blk.2.attn_k.weight: [32, 16], the settings ask for [16, 32]" in text
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize(
    "name",
    [
        "llama.block_count",
        "llama.attention.head_count",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ],
)
def test_a_missing_setting_is_named(name: str, parts: Parts, tmp_path: Path) -> None:
    del parts[0][name]
    refused(parts, tmp_path, name)


@pytest.mark.parametrize("change", [{"llama.attention.head_count": 3}, {"llama.attention.head_count_kv": [2, 2, 1]}])
def test_settings_that_no_llama_has_are_an_error_of_the_users(change: Fields, parts: Parts, tmp_path: Path) -> None:
    refused(({**parts[0], **change}, parts[1]), tmp_path, "head")


@pytest.mark.parametrize("scaling", ["linear", "yarn"])
def test_rope_scaling_is_never_ignored(scaling: str, parts: Parts, tmp_path: Path) -> None:
    """A longer context by scaled positions: without the scaling the same weights compute something else."""
    settings = {"llama.rope.scaling.type": scaling, "llama.rope.scaling.factor": 4.0}
    refused(({**parts[0], **settings}, parts[1]), tmp_path, r"rope\.scaling")


@pytest.mark.parametrize("kept", [0, 3, 100, 0.3, 0.6, -1])
def test_a_truncated_file_is_refused(kept: float, parts: Parts, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", *parts)
    content = source.read_bytes()
    source.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(UserError, match=r"model\.gguf: not a whole GGUF file"):
        convert_gguf(source, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04" + bytes(1000))
    for name in ("model.gguf", "absent.gguf"):
        with pytest.raises(UserError, match=name):
            convert_gguf(tmp_path / name, tmp_path / "converted")


TEXTS = [
    "Below is an instruction that describes a task.",
    "  two spaces , a comma's space\n\n\ttab ",
    "ünïcödé 日本語 🙂 and 1234567890",
    "<|im_start|>user\nHello<|im_end|>",
    "",
]


def test_the_tokenizer_is_that_of_the_original(parts: Parts, tiny_tokenizer: Any, convert: Any) -> None:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(convert(*parts))
    assert found.get_vocab() == tiny_tokenizer.get_vocab()
    for text in TEXTS:
        ids = found(text).input_ids
        assert ids == tiny_tokenizer(text).input_ids
        assert found.decode(ids) == text
    messages = [{"role": "user", "content": "Hello"}]
    for options in ({"tokenize": False}, {"add_generation_prompt": True, "tokenize": False}):
        assert found.apply_chat_template(messages, **options) == tiny_tokenizer.apply_chat_template(messages, **options)


def test_special_tokens_have_their_roles(parts: Parts, tiny_tokenizer: Any, convert: Any) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    fields, tensors = parts
    user_defined = fields["tokenizer.ggml.tokens"].index("a")
    fields["tokenizer.ggml.token_type"][user_defined] = USER_DEFINED
    fields |= {
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    folder = convert(fields, tensors)
    found = AutoTokenizer.from_pretrained(folder)
    assert (found.bos_token, found.eos_token, found.pad_token, found.unk_token) == ("<s>", "<|im_end|>", "</s>", "<s>")
    assert found("<|im_start|>user").input_ids[0] == 2
    assert found.decode([2, user_defined, 3, 1], skip_special_tokens=True) == "a"
    for config in (AutoConfig.from_pretrained(folder), GenerationConfig.from_pretrained(folder)):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 3, 1)


@pytest.mark.parametrize(("pre", "pieces"), [("gpt-2", ["12", "12"]), ("smollm", ["1", "2", "1", "2"])])
def test_smollm_keeps_digits_apart_whatever_the_merges_say(
    pre: str, pieces: list[str], make_model: MakeModel, tiny_tokenizer: Any, convert: Any
) -> None:
    from transformers import AutoTokenizer

    fields, tensors = gguf_parts(make_model(vocab_size=len(tiny_tokenizer) + 1)[1], tiny_tokenizer, pre)
    fields["tokenizer.ggml.tokens"].append("12")
    fields["tokenizer.ggml.token_type"].append(NORMAL)
    fields["tokenizer.ggml.merges"].insert(0, "1 2")
    assert AutoTokenizer.from_pretrained(convert(fields, tensors)).tokenize("1212") == pieces


def test_conversion_needs_no_torch(parts: Parts, tmp_path: Path) -> None:
    """In a process where torch cannot be imported: where it can be, transformers does so unasked."""
    source = write_gguf(tmp_path / "model.gguf", *parts)
    script = (
        "import sys; from pathlib import Path\n"
        "sys.modules['torch'] = None\n"
        "from lodos.formats.gguf import convert_gguf\n"
        "convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "assert not any(name.startswith('torch.') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(source), str(tmp_path / "without")], check=True)
    convert_gguf(source, tmp_path / "with")
    for path in (tmp_path / "with").iterdir():
        assert (tmp_path / "without" / path.name).read_bytes() == path.read_bytes()


def test_the_converted_smollm2_knows_the_capital_of_france(smollm2: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(smollm2), loaded(smollm2)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=10)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in answer


def test_the_converted_smollm2_reads_digits_one_by_one(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.tokenize("1984") == ["1", "9", "8", "4"]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_changed_file_is_refused_or_converted(parts: Parts, tmp_path: Path) -> None:
    """Bytes of what stands before the weights, changed, and the end cut off."""
    sound = write_gguf(tmp_path / "sound.gguf", *parts).read_bytes()
    before_weights = sound.index(b"output_norm.weight")
    for seed in range(60):
        choice = random.Random(seed)
        data = bytearray(sound)
        match seed % 3:
            case 0:
                data = data[: choice.randrange(len(data))]
            case 1:
                data[choice.randrange(before_weights)] = choice.randrange(256)
            case _:
                start = choice.randrange(8, before_weights)
                data[start : start + 8] = choice.choice([b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f" + b"\x00" * 4])
        (tmp_path / "changed.gguf").write_bytes(data)
        began = time.process_time()
        with contextlib.suppress(UserError):
            convert_gguf(tmp_path / "changed.gguf", tmp_path / "converted")
        assert time.process_time() - began < 5, seed
