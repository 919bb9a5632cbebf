"""`lodos export` and `lodos import`: what other programs read is what was trained, and comes back as it went."""

import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from lodos.cli import main
from lodos.formats.factors import Factors
from lodos.formats.gguf import convert_gguf
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.mlx import save_mlx
from lodos.formats.peft import WEIGHTS_NAME, load_peft_pretrained, save_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.lora.transform import lora_layers, loraize, with_factors
from lodos.places.manifest import MANIFEST
from lodos.prompting.description import EndToken, Prompting, write_prompting
from lodos.prompting.prompts import ALPACA_PROMPTS

MakeModel = Callable[..., tuple[Path, Any]]
PROMPTING = Prompting("alpaca", prompts=ALPACA_PROMPTS, end_tokens=(EndToken(3, "<|im_end|>"),))


def adapter_of(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter with random factors."""
    config = LoraConfig(**{"r": 4, "alpha": 6.0, **settings})
    model = loraize(HFCheckpointConverter.from_hf(str(base)).load_pretrained(), config, key=jax.random.key(0))
    factors = {}
    for index, (name, layer) in enumerate(lora_layers(model).items()):
        keys = jax.random.split(jax.random.key(index), 2)
        factors[name] = tuple(
            0.2 * jax.random.normal(key, factor.shape) for key, factor in zip(keys, layer.factors, strict=True)
        )
    save_peft_pretrained(with_factors(model, factors), config, str(base), folder, prompting=PROMPTING)
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def adapter(request: Any, make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, _ = make_model(request.param, head_dim=12)
    return adapter_of(base, tmp_path_factory.mktemp("adapter") / "adapter")


def base_of(adapter: Path) -> str:
    return json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]


def there_and_back(adapter: Path, to: str, folder: Path) -> Path:
    assert main(["export", "--adapter", str(adapter), "--to", to, "--output", str(folder / "out")]) == 0
    assert (folder / "out" / MANIFEST).is_file()
    source = next((folder / "out").glob("*.gguf"), folder / "out")
    back = ["import", "--adapter", str(source), "--model", base_of(adapter), "--output", str(folder / "back")]
    assert main(back) == 0
    return folder / "back"


@pytest.mark.parametrize("to", ["mlx", "gguf-lora"])
def test_an_adapter_comes_back_bit_for_bit(adapter: Path, to: str, tmp_path: Path) -> None:
    back = there_and_back(adapter, to, tmp_path)
    for name in (WEIGHTS_NAME, "prompting.json"):
        assert (back / name).read_bytes() == (adapter / name).read_bytes(), name
    assert main(["verify", str(back)]) == 0


@pytest.mark.parametrize("to", ["mlx", "gguf-lora"])
def test_ranks_and_alphas_of_some_layers_add_the_same(to: str, make_model: MakeModel, tmp_path: Path) -> None:
    base, _ = make_model(tie_word_embeddings=False)
    adapter = adapter_of(
        base,
        tmp_path / "adapter",
        target_modules=["embed_tokens", "lm_head", "q_proj", "down_proj"],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"layers.1.mlp.down_proj": 5.0},
    )
    back = there_and_back(adapter, to, tmp_path)
    converter = HFCheckpointConverter.from_hf(str(base))
    deltas = []
    for folder in (adapter, back):
        model, _ = load_peft_pretrained(converter.structure(), folder, base=converter.reader())
        deltas.append(
            {
                f"{name}.{index}": layer.on_host().delta_of(index)
                for name, layer in lora_layers(model).items()
                for index in (range(layer.num_layers) if layer.num_layers else [None])
            }
        )
    assert deltas[0].keys() == deltas[1].keys()
    for name, delta in deltas[0].items():
        np.testing.assert_allclose(deltas[1][name], delta, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_model_is_the_merged_one(make_model: MakeModel, tmp_path: Path) -> None:
    base, _ = make_model()
    adapter = adapter_of(base, tmp_path / "adapter")
    arguments = ["--adapter", str(adapter), "--output"]
    assert main(["export", "--to", "gguf", "--type", "f32", *arguments, str(tmp_path / "gguf")]) == 0
    assert main(["export", "--to", "merged", *arguments, str(tmp_path / "merged")]) == 0
    convert_gguf(tmp_path / "gguf" / "model-f32.gguf", tmp_path / "again")
    merged, again = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "again"))
    assert merged.keys() == again.keys()
    for name, tensor in merged.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


@pytest.mark.parametrize("wanted", ["f16", "bf16", "q8_0", "q4_0"])
def test_numbers_are_as_near_as_their_type_allows(wanted: str, adapter: Path, tmp_path: Path) -> None:
    out, exact = tmp_path / "out", tmp_path / "exact"
    arguments = ["export", "--adapter", str(adapter), "--to", "gguf", "--output"]
    assert main([*arguments, str(out), "--type", wanted]) == 0
    assert main([*arguments, str(exact), "--type", "f32"]) == 0
    found, meant = (gguf.GGUFReader(next(folder.glob("*.gguf"))).tensors for folder in (out, exact))
    most = {"f16": 1e-3, "bf16": 1e-2, "q8_0": 1e-2, "q4_0": 0.15}[wanted]
    for tensor, exact_tensor in zip(found, meant, strict=True):
        is_vector = len(tensor.shape) == 1
        assert (tensor.tensor_type == gguf.GGMLQuantizationType.F32) == is_vector
        values, exact_values = (gguf.dequantize(t.data, t.tensor_type) for t in (tensor, exact_tensor))
        error = np.linalg.norm(values - exact_values) / np.linalg.norm(exact_values)
        assert error <= (0 if is_vector else most), tensor.name


def test_the_file_says_how_it_was_trained(adapter: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    assert main(["export", "--adapter", str(adapter), "--to", "gguf", "--output", str(tmp_path / "out")]) == 0
    fields = gguf.GGUFReader(tmp_path / "out" / "model-f16.gguf").fields
    said = {name: field.contents() for name, field in fields.items()}
    assert said["tokenizer.ggml.eos_token_id"] == tiny_tokenizer.eos_token_id
    assert said["tokenizer.ggml.eot_token_id"] == 3
    tiny_tokenizer = type(tiny_tokenizer).from_pretrained(adapter)
    tiny_tokenizer.chat_template = said["tokenizer.chat_template"]
    asked = tiny_tokenizer.apply_chat_template([{"role": "user", "content": 'Say {"a"}.'}], tokenize=False)
    assert asked == ALPACA_PROMPTS.render('Say {"a"}.')
    modelfile = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert modelfile.startswith("FROM ./model-f16.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert "{{ .Prompt }}" in modelfile


def test_frequencies_of_llama_3_are_a_tensor(make_model: MakeModel, tmp_path: Path) -> None:
    rope = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    base, model = make_model(rope_parameters={**rope, "original_max_position_embeddings": 64})
    adapter = adapter_of(base, tmp_path / "adapter")
    assert main(["export", "--adapter", str(adapter), "--to", "gguf", "--output", str(tmp_path / "out")]) == 0
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out" / "model-f16.gguf").tensors}
    plain = 500000.0 ** -(np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(plain / tensors["rope_freqs.weight"], model.model.rotary_emb.inv_freq, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "mlx", "--type", "q8_0"], "mlx adapters are written in float32"),
        (["--to", "merged", "--type", "q8_0"], "type: q8_0 is one of GGUF"),
        (["--to", "onnx"], "onnx"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], said: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--adapter", str(adapter), "--output", str(tmp_path / "out"), *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_llama_cpp_does_not_compute_is_refused(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, _ = make_model(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    adapter = adapter_of(base, tmp_path / "adapter")
    assert main(["export", "--adapter", str(adapter), "--to", "gguf", "--output", str(tmp_path / "out")]) == 1
    assert "rope_type: 'dynamic'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda config: config["lora_parameters"].pop("scale"), "lora_parameters.scale: missing"),
        (lambda config: config.update(fine_tune_type="dora"), "fine_tune_type: 'dora'"),
        (lambda config: config.update(lora_parameters=[1]), "lora_parameters"),
        (lambda config: config["lora_parameters"].update(scale="2"), "lora_parameters.scale"),
    ],
)
def test_a_damaged_mlx_config_is_named(
    damage: Callable[[Any], Any], said: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", "--adapter", str(adapter), "--to", "mlx", "--output", str(out)]) == 0
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    damage(config)
    (out / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["import", "--adapter", str(out), "--output", str(tmp_path / "back")]) == 1
    error = capsys.readouterr().err
    assert "adapter_config.json" in error
    assert said in error


def test_an_adapter_of_another_model_is_refused(
    adapter: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, _ = make_model("qwen2")
    assert main(["export", "--adapter", str(adapter), "--to", "gguf-lora", "--output", str(tmp_path / "out")]) == 0
    file = tmp_path / "out" / "adapter-f32.gguf"
    back = ["import", "--adapter", str(file), "--output", str(tmp_path / "back")]
    assert main(back) == 1
    assert "Give the base model: --model" in capsys.readouterr().err
    assert main([*back, "--model", str(other)]) == 1
    assert "the base is llama.cpp's 'qwen2'" in capsys.readouterr().err
    file.write_bytes(file.read_bytes()[:900])
    assert main([*back, "--model", base_of(adapter)]) == 1
    assert "not a whole GGUF file" in capsys.readouterr().err


needs_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python")
needs_mlx = pytest.mark.skipif(importlib.util.find_spec("mlx_lm") is None, reason="needs mlx-lm")

TEXTS = [
    "Say it.",
    "  two spaces\n\n\nthree lines",
    "über 日本語 🙂",
    "I've DON'T 12345",
    "<|im_start|>user\nx<|im_end|>",
]


@needs_llama_cpp
def test_llama_cpp_computes_what_we_compute(adapter: Path, tmp_path: Path) -> None:
    """Token ids, and logits of the model, and of the base with the adapter."""
    import llama_cpp

    converter = HFCheckpointConverter.from_hf(base_of(adapter))
    ids = converter.tokenizer("Below is an instruction. Write a response.")["input_ids"]
    base_only = tmp_path / "base"
    for name, to in (("model", "gguf"), ("lora", "gguf-lora")):
        arguments = ["export", "--adapter", str(adapter), "--to", to, "--type", "f32", "--output"]
        assert main([*arguments, str(tmp_path / name)]) == 0
    _write_base(converter, base_only)
    merged, _ = load_peft_pretrained(converter.load_pretrained(), adapter)
    expected = np.asarray(_logits(merged, ids))
    for weights, lora in (
        (tmp_path / "model" / "model-f32.gguf", None),
        (base_only / "model-f32.gguf", str(tmp_path / "lora" / "adapter-f32.gguf")),
    ):
        llama = llama_cpp.Llama(str(weights), lora_path=lora, n_ctx=64, logits_all=True, verbose=False)
        for text in TEXTS:
            found = llama.tokenize(text.encode(), add_bos=False, special=True)
            assert found == converter.tokenizer(text, add_special_tokens=False)["input_ids"], text
        llama.eval(ids)
        found = np.asarray(llama.scores[: len(ids)])
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def _write_base(converter: HFCheckpointConverter, folder: Path) -> None:
    from lodos.formats.gguf_model import save_gguf

    folder.mkdir()
    save_gguf(converter, converter.structure(), folder / "model-f32.gguf", "f32", name="base")


def _logits(model: Any, ids: list[int]) -> Any:
    import jax.numpy as jnp

    return model(jnp.asarray(ids)[None])[0]


@needs_mlx
def test_mlx_computes_what_we_compute(adapter: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm import load

    assert main(["export", "--adapter", str(adapter), "--to", "mlx", "--output", str(tmp_path / "out")]) == 0
    converter = HFCheckpointConverter.from_hf(base_of(adapter))
    model, _ = load(base_of(adapter), adapter_path=str(tmp_path / "out"))
    ids = converter.tokenizer("Below is an instruction. Write a response.")["input_ids"]
    merged, _ = load_peft_pretrained(converter.load_pretrained(), adapter)
    expected = np.asarray(_logits(merged, ids))
    found = np.asarray(model(mx.array(ids)[None])[0].astype(mx.float32))
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize(("to", "word"), [("gguf", "tensors"), ("gguf-lora", "every lora_b"), ("mlx", "every lora_b")])
def test_what_was_written_is_verified(
    to: str, word: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", "--adapter", str(adapter), "--to", to, "--output", str(out)]) == 0
    assert main(["verify", str(out)]) == 0
    assert re.search(f"every file as written.*all finite.*{word}|{word}, all finite", capsys.readouterr().out)
    for file in (*out.glob("*.gguf"), *out.glob("*.safetensors")):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert main(["verify", str(out)]) == 1
    assert "NOT as it should be" in capsys.readouterr().out


@pytest.mark.parametrize("number", [0.0, np.nan])
def test_factors_that_are_not_right_are_found(
    number: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    A, B = np.ones((2, 8), np.float32), np.full((6, 2), number, np.float32)
    factors = {"model.layers.0.self_attn.q_proj": Factors(A, B, 1.0)}
    save_mlx(factors, LoraConfig(r=2, alpha=2.0), tmp_path, model="base", num_layers=1)
    assert main(["verify", str(tmp_path)]) == 1
    found = capsys.readouterr()
    assert ("is zero" if number == 0 else "not finite") in found.out + found.err


def test_a_gguf_that_does_not_end_where_answers_ended_is_found(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", "--adapter", str(adapter), "--to", "gguf", "--output", str(out)]) == 0
    write_prompting(dataclasses.replace(PROMPTING, end_tokens=(EndToken(77, "x"),)), out)
    (out / MANIFEST).unlink()
    assert main(["verify", str(out)]) == 1
    assert "'x' (77) ended trained answers" in capsys.readouterr().out
