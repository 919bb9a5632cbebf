"""`lodos merge` from an adapter folder to a model folder, compared with what PEFT merges."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from lodos.cli import main
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import save_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.lora.transform import lora_layers, loraize, with_factors

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def base(make_model: Callable[..., tuple[Path, Any]]) -> Path:
    return make_model()[0]


@pytest.fixture(scope="module")
def ours(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter written by lodos."""
    config = LoraConfig(r=4, alpha=6.0)
    model = loraize(HFCheckpointConverter.from_hf(str(base)).load_pretrained(), config, key=jax.random.key(0))
    factors = {
        name: (layer.lora_A, 0.15 * jax.random.normal(jax.random.key(1), layer.lora_B.shape))
        for name, layer in lora_layers(model).items()
    }
    folder = tmp_path_factory.mktemp("ours") / "adapter"
    save_peft_pretrained(with_factors(model, factors), config, str(base), folder)
    return folder


@pytest.fixture(scope="module")
def theirs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter written by PEFT, of two kinds of layers in all but one of the model's layers."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, use_rslora=True, target_modules=r".*layers\.[02]\..*(q|down)_proj", task_type="CAUSAL_LM"
    )
    model: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    folder = tmp_path_factory.mktemp("theirs") / "adapter"
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def with_more_tokens(ours: Path, tmp_path: Path) -> Path:
    """The adapter with a PAD that was added to its tokenizer alone, and a chat template of its own."""
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(ours, tmp_path / "more tokens"))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def run(*argv: object) -> int:
    return main(["merge", *map(str, argv)])


def refusal(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert run(*argv) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.float().numpy()


def merged_by_peft(base: Path, adapter: Path, tokens: np.ndarray) -> np.ndarray:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    return logits(model.merge_and_unload(), tokens)


def loaded(folder: Path) -> Any:
    """The model as transformers loads it, with nothing missing and nothing left over."""
    from transformers import AutoModelForCausalLM

    found: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    model, info = found
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model


@pytest.mark.parametrize("written_by", ["ours", "theirs"])
def test_transformers_computes_with_the_merged_model_what_peft_merges(
    written_by: str, base: Path, tmp_path: Path, tokens: np.ndarray, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoTokenizer

    adapter: Path = request.getfixturevalue(written_by)
    assert run("--adapter", adapter, "--output", tmp_path / "merged") == 0
    expected = merged_by_peft(base, adapter, tokens)
    found = logits(loaded(tmp_path / "merged"), tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert np.abs(found - logits(loaded(base), tokens)).max() > 0.01 * np.abs(expected).max()  # not the base's
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("task").input_ids


def test_layers_without_an_adapter_are_the_bases_bit_for_bit(base: Path, theirs: Path, tmp_path: Path) -> None:
    assert run("--adapter", theirs, "--output", tmp_path / "merged") == 0
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {
        f"model.layers.{layer}.{name}_proj.weight" for layer in (0, 2) for name in ("self_attn.q", "mlp.down")
    }


def test_the_outcome_is_said_and_standard_output_stays_empty(
    ours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("--adapter", ours, "--output", tmp_path / "merged") == 0
    captured = capfd.readouterr()
    assert f"Merged model: {tmp_path / 'merged'}" in captured.err
    assert f"lodos generate --model {tmp_path / 'merged'}" in captured.err
    assert captured.out == ""


def test_the_dtype_is_that_asked_for_and_rounded_once(ours: Path, tmp_path: Path) -> None:
    import torch

    assert run("--adapter", ours, "--output", tmp_path / "f32") == 0
    assert run("--adapter", ours, "--output", tmp_path / "bf16", "--dtype", "bfloat16") == 0
    exact, rounded = loaded(tmp_path / "f32").state_dict(), loaded(tmp_path / "bf16").state_dict()
    assert {tensor.dtype for tensor in exact.values()} == {torch.float32}
    assert all(torch.equal(exact[name].to(torch.bfloat16), tensor) for name, tensor in rounded.items())


def test_large_models_are_split(ours: Path, tmp_path: Path, tokens: np.ndarray) -> None:
    assert run("--adapter", ours, "--output", tmp_path / "whole") == 0
    assert run("--adapter", ours, "--output", tmp_path / "split", "--max_shard_size", "60KB") == 0
    assert len(list((tmp_path / "split").glob("model-*.safetensors"))) > 1
    assert (tmp_path / "split" / "model.safetensors.index.json").exists()
    np.testing.assert_array_equal(
        logits(loaded(tmp_path / "split"), tokens), logits(loaded(tmp_path / "whole"), tokens)
    )


def test_the_base_can_be_given(base: Path, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = Path(shutil.copytree(ours, tmp_path / "adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    said = refusal(capsys, "--adapter", adapter, "--output", tmp_path / "merged")
    assert "does not name its base model. Give it with --model." in said
    assert run("--adapter", adapter, "--output", tmp_path / "merged", "--model", base) == 0
    assert run("--adapter", ours, "--output", tmp_path / "expected") == 0
    written, expected = (tmp_path / name / "model.safetensors" for name in ("merged", "expected"))
    assert written.read_bytes() == expected.read_bytes()


def test_a_folder_that_exists_is_replaced_only_on_request(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "merged"
    output.mkdir()
    (output / "precious.txt").write_text("keep me", encoding="utf-8")
    assert "--overwrite to replace" in refusal(capsys, "--adapter", ours, "--output", output)
    assert "no folder of a model" in refusal(capsys, "--adapter", ours, "--output", output, "--overwrite")
    assert [path.name for path in output.iterdir()] == ["precious.txt"]
    (output / "precious.txt").rename(output / "config.json")
    assert run("--adapter", ours, "--output", output, "--overwrite") == 0
    assert (output / "model.safetensors").exists()
    (tmp_path / "a file").write_text("keep me", encoding="utf-8")
    assert "is a file" in refusal(capsys, "--adapter", ours, "--output", tmp_path / "a file", "--overwrite")
    assert "is a file" in refusal(capsys, "--adapter", ours, "--output", tmp_path / "a file" / "merged")


@pytest.mark.parametrize("above", [False, True])
def test_what_it_is_made_from_is_not_replaced(
    ours: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], above: bool
) -> None:
    adapter = Path(shutil.copytree(ours, tmp_path / "run" / "adapter"))
    model = Path(shutil.copytree(base, tmp_path / "models" / "base"))
    for what, folder in (("base model", model), ("adapter", adapter)):
        output = folder.parent if above else folder
        if above:
            (output / "config.json").touch()  # as of a model
        said = refusal(capsys, "--adapter", adapter, "--model", model, "--output", output, "--overwrite")
        assert f"holds the {what}" in said or (what == "adapter" and "no folder of a model" in said)
    assert (adapter / "adapter_model.safetensors").exists()
    assert (model / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--adapter", "./nowhere"], "./nowhere: there is no such folder"),
        (["--adapter", "{base}"], "adapter_config.json"),
        (["--adapter", "{ours}", "--model", "./nowhere"], "./nowhere: there is no such folder"),
        (["--adapter", "{ours}", "--dtype", "int8"], "dtype: "),
        ([], "adapter"),
    ],
)
def test_what_is_wrong_is_said_before_weights_are_loaded(
    argv: list[str],
    said: str,
    base: Path,
    ours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    arguments = [argument.format(base=base, ours=ours) for argument in argv]
    output = [] if "--output" in arguments else ["--output", tmp_path / "merged"]
    assert said in refusal(capsys, *arguments, *output)
    assert list(tmp_path.iterdir()) == []


def test_a_base_of_another_shape_is_refused_tensor_by_tensor(
    ours: Path, make_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, _ = make_model(hidden_size=64, num_hidden_layers=2)
    said = refusal(capsys, "--adapter", ours, "--output", tmp_path / "merged", "--model", other)
    assert "layers.*.self_attn.q_proj.lora_A.weight: the file has [4, 32], this model needs [4, 64] (2 tensors)" in said
    assert len(re.findall(r"layers\.2\.\S+: extra", said)) == 14  # the third layer's A and B of seven modules
    assert list(tmp_path.iterdir()) == []


def test_whoever_may_read_the_folder_may_read_the_weights(ours: Path, tmp_path: Path) -> None:
    assert run("--adapter", ours, "--output", tmp_path / "merged") == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "merged").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_tokens_that_no_row_is_for_are_refused_or_left_out(
    with_more_tokens: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    said = refusal(capsys, "--adapter", with_more_tokens, "--output", tmp_path / "merged")
    rows = HFCheckpointConverter.from_hf(str(base)).config.vocab_size
    assert f"tokens beyond the {rows} rows of the base model's embedding: '<pad>' (id {rows})" in said
    assert "--tokenizer base" in said
    assert not (tmp_path / "merged").exists()
    assert run("--adapter", with_more_tokens, "--output", tmp_path / "merged", "--tokenizer", "base") == 0
    written: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert "<pad>" not in written.get_vocab()
    assert written.chat_template == "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_tokenizer_that_does_not_know_the_trained_end_is_refused(
    with_more_tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lodos.prompting.description import EndToken, Prompting, write_prompting

    write_prompting(Prompting("chat", end_tokens=(EndToken(384, "<pad>"),)), with_more_tokens)
    said = refusal(capsys, "--adapter", with_more_tokens, "--output", tmp_path / "merged", "--tokenizer", "base")
    assert "end_tokens: '<pad>' is 384 there" in said


def test_tokens_that_the_bases_own_tokenizer_has_as_well_are_its_own(
    with_more_tokens: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = Path(shutil.copytree(base, tmp_path / "base"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(with_more_tokens / name, same / name)
    assert run("--adapter", with_more_tokens, "--model", same, "--output", tmp_path / "merged") == 0


def test_an_answer_is_given_all_the_same_and_prompts_with_such_tokens_are_refused(
    with_more_tokens: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("lodos"), "propagate", True)
    ask = ["generate", "--adapter", str(with_more_tokens), "--max_new_tokens", "1", "--prompt"]
    assert main([*ask, "Hi"]) == 0
    assert "'<pad>'" in caplog.text
    capsys.readouterr()
    assert main([*ask, "Hi <pad>"]) == 1
    assert "'<pad>'" in capsys.readouterr().err
