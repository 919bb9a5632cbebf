"""Files that somebody has made to do harm, or by mistake: each is refused with an error for the user, or loaded right.

The files of a sound model, adapter and tokenizer are changed in one place each: a value of another kind put somewhere
in the JSON, bytes changed, or the end cut off. Whatever comes out must be a `UserError`, in time.
"""

import copy
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained, peft_shapes, read_adapter_config
from lodos.formats.peft_config import to_peft
from lodos.formats.safetensors import INDEX_NAME, SafetensorsReader
from lodos.formats.tokenizer_files import load_tokenizer
from lodos.lora.config import LoraConfig
from lodos.lora.transform import loraized_shapes

SECONDS = 5.0
"""Of processor time, since a machine may be busy with other things."""
_HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**300, -(10**9), 1.5, float("nan"), float("inf"), "", "x", "\ud800",
    "a" * 5000, "../../etc/passwd", [], [None], [[]], {}, {"a": {}}, {"": None}, ["x"] * 50, {"type": "x"}, "(q*)*x",
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in two files with an index, an adapter of it, and its tokenizer."""
    folder = tmp_path_factory.mktemp("sound")
    config = dict(
        model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=16, intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, vocab_size=len(tiny_tokenizer),
        max_position_embeddings=64, rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=True, eos_token_id=1,
        rope_scaling={"rope_type": "linear", "factor": 2.0}, head_dim=8,
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tiny_tokenizer.save_pretrained(folder)
    converter = HFCheckpointConverter.from_hf(str(folder))
    from lodos.formats.merged import TIED_HEAD, leaf_of_tensor

    shapes = {name: leaf.shape for name, leaf in leaf_of_tensor(converter.structure()).items() if name != TIED_HEAD}
    names = sorted(shapes)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: np.ones(shapes[name], np.float32) for name in held}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    adapter = folder / "adapter"
    adapter.mkdir()
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 3})
    factors = peft_shapes(loraized_shapes(converter.structure(), lora))
    save_file({k: np.ones(s, np.float32) for k, s in factors.items()}, adapter / "adapter_model.safetensors")
    fields = to_peft(lora, ["q_proj", "v_proj"], str(folder))
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def read_model(folder: Path) -> None:
    HFCheckpointConverter.from_hf(str(folder)).checked_structure()


def read_adapter(folder: Path) -> None:
    read_adapter_config(folder / "adapter")
    model = HFCheckpointConverter.from_hf(str(folder)).structure()
    load_peft_pretrained(model, folder / "adapter")


def read_tensors(folder: Path) -> None:
    for path in (folder, folder / "adapter" / "adapter_model.safetensors"):
        reader = SafetensorsReader(path)
        for name in reader.shapes:
            reader.read(name)


def read_tokenizer(folder: Path) -> None:
    load_tokenizer(folder)


JSON_FILES: dict[str, Callable[[Path], None]] = {
    "config.json": read_model,
    INDEX_NAME: read_model,
    "adapter/adapter_config.json": read_adapter,
    "tokenizer.json": read_tokenizer,
    "tokenizer_config.json": read_tokenizer,
}
BYTE_FILES = {
    **JSON_FILES,
    "model-1.safetensors": read_tensors,
    "adapter/adapter_model.safetensors": read_tensors,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in list(items)[:40]:
        found += places(item, (*path, name))
    return found


def changed(value: Any, choice: random.Random) -> Any:
    """`value` with something else at one place, or all of it something else."""
    value = copy.deepcopy(value)
    *outer, last = choice.choice([(), *places(value)]) or (None,)
    if last is None:
        return choice.choice(_HOSTILE)
    holder = value
    for step in outer:
        holder = holder[step]
    match choice.randrange(4):
        case 0:
            del holder[last]
        case 1:
            holder[last] = [holder[last]]
        case _:
            holder[last] = choice.choice(_HOSTILE)
    return value


def nested(choice: random.Random) -> bytes:
    depth = choice.choice([50, 200, 1000, 100_000])
    return choice.choice([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth])


def try_file(sound: Path, folder: Path, name: str, content: bytes, read: Callable[[Path], None]) -> None:
    """Reads the folder with another content of one file."""
    file = folder / name
    file.write_bytes(content)
    start = time.process_time()
    try:
        read(folder)
    except UserError:
        pass
    finally:
        shutil.copy(sound / name, file)
    assert time.process_time() - start < SECONDS


def fuzz(sound: Path, folder: Path, seed: int) -> None:
    choice = random.Random(seed)
    if choice.random() < 0.75:
        name = choice.choice(list(JSON_FILES))
        value = changed(json.loads((sound / name).read_text()), choice)
        try_file(sound, folder, name, json.dumps(value).encode(), JSON_FILES[name])
        return
    name = choice.choice(list(BYTE_FILES))
    data = bytearray((sound / name).read_bytes())
    match choice.randrange(5):
        case 0:
            data = data[: choice.randrange(len(data))]
        case 1:
            data = bytearray(nested(choice))
        case 2:
            data = data.replace(b"16", b"9" * choice.choice([3, 20, 5000]), 1)
        case _:
            for _ in range(choice.randrange(1, 4)):
                data[choice.randrange(min(len(data), 4000))] = choice.randrange(256)
    try_file(sound, folder, name, bytes(data), BYTE_FILES[name])


@pytest.fixture(scope="module")
def folder(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(sound, tmp_path_factory.mktemp("changed") / "model"))


def test_the_sound_files_are_read(sound: Path) -> None:
    for read in {*JSON_FILES.values(), *BYTE_FILES.values()}:
        read(sound)


_SETTINGS: dict[str, Any] = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, derandomize=True, **_SETTINGS)
def test_a_changed_file_is_refused_or_read(seed: int, sound: Path, folder: Path) -> None:
    fuzz(sound, folder, seed)


@pytest.mark.long
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20_000, **_SETTINGS)
def test_20_000_changed_files_are_refused_or_read(seed: int, sound: Path, folder: Path) -> None:
    fuzz(sound, folder, seed)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers: must be a whole number"),
        ("config.json", {"head_dim": -1}, "head_dim"),
        ("config.json", {"hidden_act": [None]}, "hidden_act: must be text"),
        ("config.json", {"rope_scaling": {"rope_type": "linear", "factor": "x"}}, "rope_scaling: factor"),
        ("config.json", {"layer_types": ["full_attention"]}, "layer_types"),
        ("adapter/adapter_config.json", {"lora_dropout": "x"}, "lora_dropout: must be a finite number"),
        ("adapter/adapter_config.json", {"lora_alpha": 10**400}, "lora_alpha"),
        ("adapter/adapter_config.json", {"r": 60_000}, "does not fit"),
        ("adapter/adapter_config.json", {"rank_pattern": {"v_proj": 2**63}}, "whole number from 1 to 65536"),
        ("adapter/adapter_config.json", {"rank_pattern": {"(q*)*x": 4}}, "rank_pattern: .*repeats a group"),
        ("adapter/adapter_config.json", {"alpha_pattern": {".*a.*b.*c.*d": 4}}, "alpha_pattern: .*repetitions"),
        ("tokenizer.json", {"padding": {"strategy": {"Fixed": 10**12}}}, "padding.strategy.Fixed"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}, "model.vocab: 'a'"),
        (
            "tokenizer.json",
            {"normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40}},
            "normalizer: makes up to",
        ),
    ],
)  # fmt: skip
def test_what_would_take_everything_is_refused_by_field(
    name: str, fields: dict[str, Any], said: str, sound: Path, folder: Path
) -> None:
    content = {**json.loads((sound / name).read_text()), **fields}
    (folder / name).write_text(json.dumps(content))
    start = time.process_time()
    try:
        with pytest.raises(UserError, match=said):
            JSON_FILES[name](folder)
    finally:
        shutil.copy(sound / name, folder / name)
    assert time.process_time() - start < SECONDS
    assert jax.devices()
