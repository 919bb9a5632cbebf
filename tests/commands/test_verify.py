"""`lodos verify`: a folder as it was written is verified, and each kind of damage is found and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from lodos.cli import main
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import save_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.lora.transform import lora_layers, loraize, with_factors
from lodos.places.manifest import MANIFEST
from lodos.places.place import place_of
from lodos.places.sending import send_folder
from lodos.prompting.description import EndToken, Prompting
from lodos.train.checkpoint import Checkpointer
from lodos.train.config import TrainerConfig
from lodos.train.trainer import Trainer
from tiny_training import table_loss

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def base(make_model: Callable[..., tuple[Path, Any]]) -> Path:
    return make_model()[0]


@pytest.fixture(scope="module")
def sound(base: Path, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LoraConfig(r=4, alpha=6.0)
    model = loraize(HFCheckpointConverter.from_hf(str(base)).load_pretrained(), config, key=jax.random.key(0))
    factors = {
        name: (layer.lora_A, 0.15 * jax.random.normal(jax.random.key(1), layer.lora_B.shape))
        for name, layer in lora_layers(model).items()
    }
    folder = tmp_path_factory.mktemp("sound") / "adapter"
    end = EndToken(tiny_tokenizer.convert_tokens_to_ids("<|im_end|>"), "<|im_end|>")
    asked = Prompting("chat", chat_template=tiny_tokenizer.chat_template, end_tokens=(end,))
    save_peft_pretrained(with_factors(model, factors), config, str(base), folder, prompting=asked)
    return folder


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "adapter"))


def edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """The tensors changed, and the manifest gone, so that the bytes alone do not tell."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    (folder / MANIFEST).unlink()


def edit_json(folder: Path, name: str, **fields: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **fields}), encoding="utf-8")
    (folder / MANIFEST).unlink()


def test_what_was_written_is_verified(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(sound)]) == 0
    out = capsys.readouterr().out
    assert "every file as written; 21 modules of rank 4, all finite, every B trained" in out
    assert " end token" in out


def flip(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def set_number(value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[next(iter(tensors))].flat[3] = value

    return change


def zero_b(tensors: dict[str, np.ndarray]) -> None:
    tensors[next(name for name in tensors if "lora_B" in name)][:] = 0


def without_one(tensors: dict[str, np.ndarray]) -> None:
    del tensors[next(name for name in tensors if "lora_A" in name)]


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit": (flip, "holds other bytes than were written"),
    "a missing file": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "NaN": (lambda folder: edit_tensors(folder, set_number(float("nan"))), "not finite"),
    "infinity": (lambda folder: edit_tensors(folder, set_number(float("inf"))), "not finite"),
    "a B of zeros": (lambda folder: edit_tensors(folder, zero_b), "every number of B is zero"),
    "half a pair": (lambda folder: edit_tensors(folder, without_one), "has no lora_A"),
    "another rank": (lambda folder: edit_json(folder, "adapter_config.json", r=8), "says rank 8"),
    "an idle target": (
        lambda folder: edit_json(folder, "adapter_config.json", target_modules=["q_proj", "lm_head"]),
        "lm_head have no tensors",
    ),
    "a regex of other targets": (
        lambda folder: edit_json(folder, "adapter_config.json", target_modules=".*(q|k)_proj"),
        "does not match",
    ),
    "another end": (
        lambda folder: edit_json(folder, "prompting.json", end_tokens=[{"id": 5, "text": "<|im_end|>"}]),
        "not the one of the training",
    ),
    "an end that ends nothing": (
        lambda folder: edit_json(folder, "generation_config.json", eos_token_id=1),
        "is no eos_token_id",
    ),
    "no config": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "must be a JSON object"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(name: str, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, said = DAMAGES[name]
    damage(adapter)
    assert main(["verify", str(adapter)]) == 1
    captured = capsys.readouterr()
    assert "NOT as it should be" in captured.out
    assert said in captured.out + captured.err


def test_an_adapter_that_is_not_finite_neither_merges_nor_answers(adapter: Path, tmp_path: Path) -> None:
    edit_tensors(adapter, set_number(float("nan")))
    assert main(["merge", "--adapter", str(adapter), "--output", str(tmp_path / "merged")]) == 1
    assert main(["generate", "--adapter", str(adapter), "--prompt", "Hi"]) == 1
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_is_verified_and_compared(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Say a.\nWhat is a lodos?\n", encoding="utf-8")
    merge = ["merge", "--adapter", str(sound), "--dtype", "float16", "--output", str(tmp_path / "merged")]
    assert main([*merge, "--prompt_file", str(prompts)]) == 0
    said = capsys.readouterr().err
    assert "Rounding takes of what the adapter adds" in said
    assert "q_proj" in said
    assert "merged in float16 against the adapter: largest difference" in said
    assert main(["verify", str(tmp_path / "merged")]) == 0
    assert "tensors of float16, all finite" in capsys.readouterr().out
    weights = tmp_path / "merged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert main(["verify", str(tmp_path / "merged")]) == 1


def test_a_folder_with_nothing_in_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "nothing to verify" in capsys.readouterr().err


def test_a_checkpoint_with_numbers_that_are_not_finite_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"table": jnp.linspace(0.0, 1.0, 8)}
    trainer = Trainer(
        TrainerConfig(id="run", run_dir=str(tmp_path), num_train_steps=1),
        optax.adam(1e-2),
        table_loss,
        is_trainable=True,
    )
    state = trainer.initial_state(jax.random.key(0), model=table)
    for name, value in (("sound", 0.5), ("broken", float("nan"))):
        changed = eqx.tree_at(lambda state: state.model["table"], state, table["table"].at[3].set(value))
        checkpointer = Checkpointer(tmp_path / name, keep=1)
        checkpointer.save(eqx.tree_at(lambda state: state.step, changed, jnp.asarray(1, jnp.int32)))
        checkpointer.wait()
    assert main(["verify", str(tmp_path / "sound")]) == 0
    assert "every file as written; every array finite" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "broken" / "1")]) == 1
    said = capsys.readouterr()
    assert "table: numbers that are not finite" in said.out


def test_what_is_on_a_store_is_verified_there(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = place_of("memory://verified/run/peft/step-1")
    send_folder(adapter, store)
    assert main(["verify", "memory://verified/run"]) == 0
    assert "run/peft/step-1: verified: every file as written" in capsys.readouterr().out
    data = bytearray((store / "adapter_model.safetensors").read_bytes())
    data[-3] ^= 1
    (store / "adapter_model.safetensors").write_bytes(bytes(data))
    assert main(["verify", str(store)]) == 1
    assert "holds other bytes than were written" in capsys.readouterr().out


def test_a_dtype_in_which_the_merged_model_would_answer_otherwise_is_said_with_one_in_which_not(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Say {word} and what a lodos is, {word}?\n" for word in "abcdefgh"), encoding="utf-8")
    verify = ["verify", str(sound), "--prompt_file", str(prompts)]
    assert main([*verify, "--dtype", "bfloat16"]) == 0
    said = capsys.readouterr().out
    assert "merged in bfloat16 the model would answer otherwise than the adapter" in said
    better = said.rpartition("--dtype ")[2].strip(" .\n")
    assert better in ("float16", "float32")
    assert main([*verify, "--dtype", better]) == 0
    said = capsys.readouterr().out
    assert "otherwise" not in said
    assert "the same likeliest token 100.0%" in said
