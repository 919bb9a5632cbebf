"""`lodos generate` prints what the library generates, and refuses before weights are loaded."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from lodos.cli import main
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained, save_peft_pretrained
from lodos.infer.generate import generate
from lodos.infer.text import generate_texts
from lodos.lora.config import LoraConfig
from lodos.lora.transform import lora_layers, loraize, with_factors
from lodos.prompting.encode import CHAT, encode_prompt

pytest.importorskip("torch")

PROMPT = "Describes a task"


@pytest.fixture(scope="module")
def base(make_model: Callable[..., tuple[Path, Any]]) -> Path:
    return make_model(max_position_embeddings=256, num_hidden_layers=2)[0]


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LoraConfig(r=4, alpha=16)
    model = loraize(HFCheckpointConverter.from_hf(str(base)).load_pretrained(), config, key=jax.random.key(0))
    factors = {
        name: (layer.lora_A, jax.random.normal(jax.random.key(1), layer.lora_B.shape))
        for name, layer in lora_layers(model).items()
    }
    folder = tmp_path_factory.mktemp("adapter") / "peft"
    save_peft_pretrained(with_factors(model, factors), config, str(base), folder)
    return folder


def _expected(base: Path, adapter: Path | None = None, prompt: str = PROMPT, **options: Any) -> str:
    converter = HFCheckpointConverter.from_hf(str(base))
    model = converter.load_pretrained()
    if adapter is not None:
        model, _ = load_peft_pretrained(model, adapter)
    return generate_texts(model, converter.tokenizer, [prompt], max_new_tokens=12, **options)[0]


def _run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main(["generate", *map(str, argv)]) == 0
    return capsys.readouterr().out


def test_the_answer_is_the_librarys(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _run(capsys, "--model", base, "--prompt", PROMPT, "--max_new_tokens", 12)
    assert out == _expected(base, prompting=CHAT) + "\n"
    raw = _run(capsys, "--model", base, "--prompt", PROMPT, "--max_new_tokens", 12, "--chat", "false")
    assert raw == _expected(base) + "\n"
    assert raw != out


def test_an_adapter_brings_its_base_model(
    base: Path, adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT + "\n"))
    out = _run(capsys, "--adapter", adapter, "--prompt", "-", "--max_new_tokens", 12)
    assert out == _expected(base, adapter, prompting=CHAT) + "\n"
    assert out != _expected(base, prompting=CHAT) + "\n"


def test_the_prompts_of_training_can_be_used(base: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"prompt_input": "{instruction}|{input}>", "prompt_no_input": "{instruction}>"}))
    options = ["--model", base, "--prompt", PROMPT, "--max_new_tokens", 12, "--prompts"]
    assert _run(capsys, *options, file, "--input", "x") == _expected(base, prompt=f"{PROMPT}|x>") + "\n"
    alpaca = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{PROMPT}\n\n### Response:"
    )
    assert _run(capsys, *options, "alpaca") == _expected(base, prompt=alpaca) + "\n"


def test_sampling_follows_the_seed(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", base, "--prompt", PROMPT, "--max_new_tokens", 12, "--temperature", 1, "--top_k", 40]
    first = _run(capsys, *options, "--seed", 1)
    assert _run(capsys, *options, "--seed", 1) == first
    assert _run(capsys, *options, "--seed", 2) != first


def test_generation_config_ends_the_answer(base: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    free = _run(capsys, "--model", folder, "--prompt", PROMPT, "--max_new_tokens", 12)
    converter = HFCheckpointConverter.from_hf(str(folder))
    prompt_ids = encode_prompt(converter.tokenizer, PROMPT, CHAT)
    (ids,) = generate(converter.load_pretrained(), [prompt_ids], max_new_tokens=12, eos_token_ids=[1])
    third = ids[2]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, third]}))
    cut = _run(capsys, "--model", folder, "--prompt", PROMPT, "--max_new_tokens", 12)
    assert cut == converter.tokenizer.decode(ids[: ids.index(third)]) + "\n"
    assert cut != free


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--prompt", "x"], "model: missing"),
        (["--model", "{base}", "--prompt", ""], "prompt: it is empty"),
        (["--model", "{base}", "--prompt", "x", "--max_new_tokens", "300"], "the model has 256 positions"),
        (["--model", "{base}", "--prompt", "x", "--max_new_tokens", "0"], "max_new_tokens: 0"),
        (["--model", "{base}", "--prompt", "x", "--temperature", "-1"], "temperature: -1"),
        (["--model", "{base}", "--prompt", "x", "--top_k", "5"], "without effect at temperature 0"),
        (["--model", "{base}", "--prompt", "x", "--chat", "false", "--system", "y"], "system: only a chat"),
        (["--model", "{base}", "--prompt", "x", "--chat", "true", "--prompts", "alpaca"], "Choose one"),
        (["--model", "{base}", "--prompt", "x", "--input", "y"], "--prompts alpaca or a file"),
        (["--model", "{base}", "--prompt", "x", "--adapter", "{base}"], "adapter_config.json"),
        (["--model", "/no/such/folder", "--prompt", "x"], "there is no such folder"),
        (["--model", "{base}"], "prompt, prompt_file: missing"),
    ],
)
def test_what_is_wrong_is_said_before_weights_are_loaded(
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    assert main(["generate", *(arg.format(base=base) for arg in argv)]) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("damage", ["no weights", "not finite", "other ranks"])
def test_a_bad_adapter_is_refused_before_the_base_is_loaded(
    damage: str,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    file = folder / "adapter_model.safetensors"
    match damage:
        case "no weights":
            file.unlink()
        case "not finite":
            save_file({name: tensor * np.float32("nan") for name, tensor in load_file(file).items()}, file)
        case _:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 3}), encoding="utf-8")

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the base's weights are loaded")

    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", load)
    capsys.readouterr()
    assert main(["generate", "--adapter", str(folder), "--prompt", "a"]) == 1
    said = capsys.readouterr().err
    assert {"no weights": "There are", "not finite": "layers.*.", "other ranks": "layers.*."}[damage] in said
    assert len(said.splitlines()) < 20


def test_answers_that_are_there_are_replaced(base: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\n", encoding="utf-8")
    output = tmp_path / "answers.jsonl"
    output.write_text("earlier ones", encoding="utf-8")
    ask = ["generate", "--model", base, "--prompt_file", tmp_path / "prompts.txt", "--output", output]
    assert main([*map(str, ask), "--max_new_tokens", "1"]) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["prompt"] == "a"
