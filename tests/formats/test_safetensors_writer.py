"""Files of tensors are the safetensors library's, byte for byte, and nobody holds more than one tensor of them."""

import gc
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lodos.formats import safetensors_writer
from lodos.formats.safetensors_writer import TensorSource, in_files, save_and_compare, write_sharded
from lodos.row_slices import row_slices


def random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def write(folder: Path, tensors: dict[str, np.ndarray], max_shard_size: str | int = "5GB") -> None:
    sources = {name: TensorSource.of(array) for name, array in tensors.items()}
    write_sharded(folder, sources, max_shard_size=max_shard_size, progress=lambda _: None)


MIXED = {
    "z.weight": random(5, 3),
    "b half": random(7, dtype=np.float16),
    "a.bfloat16": random(3, 3, dtype=ml_dtypes.bfloat16),
    "c.double": random(2, 2, 2, dtype=np.float64),
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    'ä "quoted" \\ \t\x01\x7f\u2028': random(2),
    "a.weight": random(4),
}


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    save_and_compare(tmp_path / "ours", MIXED)
    save_file(MIXED, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("letters", range(1, 9))
def test_the_bytes_are_those_of_the_library_whatever_the_length_of_the_header(letters: int, tmp_path: Path) -> None:
    tensors = {"x" * letters: random(3, dtype=ml_dtypes.bfloat16)}
    save_and_compare(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("view", ["transposed", "every other row", "reversed"])
def test_a_view_is_written_as_its_values(view: str, tmp_path: Path) -> None:
    array = random(6, 4)
    tensor = {"transposed": array.T, "every other row": array[::2], "reversed": array[::-1]}[view]
    save_and_compare(tmp_path / "w.safetensors", {"w": tensor})
    np.testing.assert_array_equal(load_file(tmp_path / "w.safetensors")["w"], tensor)


def test_the_same_tensors_give_the_same_bytes_in_whatever_order(tmp_path: Path) -> None:
    save_and_compare(tmp_path / "one", MIXED)
    save_and_compare(tmp_path / "two", dict(reversed(MIXED.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("max_shard_size", ["5GB", 100])
def test_one_tensor_is_held_at_a_time(max_shard_size: str | int, tmp_path: Path) -> None:
    """Also in one file: the tensor before is gone when one is made. They are made in the order that is told."""
    alive: list[weakref.ref[np.ndarray]] = []
    most, order = 0, []

    def make(name: str, array: np.ndarray) -> np.ndarray:
        nonlocal most
        made = array.copy()
        alive.append(weakref.ref(made))
        order.append(name)
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return made

    sources = {n: TensorSource(a.shape, a.dtype, lambda part, n=n, a=a: make(n, a)[part]) for n, a in MIXED.items()}
    write_sharded(tmp_path, sources, max_shard_size=max_shard_size, progress=lambda _: None)
    assert most == 1
    assert order == [name for name in in_files(sources, max_shard_size) if MIXED[name].size]


def test_some_rows_of_a_tensor_are_held_at_a_time(tmp_path: Path) -> None:
    tensor = random(12, 2**18)
    made: list[int] = []

    def rows(part: tuple[slice, ...]) -> np.ndarray:
        made.append(len(tensor[part]))
        return tensor[part].copy()

    source = TensorSource(tensor.shape, tensor.dtype, rows)
    write_sharded(tmp_path, {"w": source}, max_shard_size="5GB", progress=lambda _: None)
    assert made == [4, 4, 4]
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["w"], tensor)


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (5, 0), (1,), (9, 2**20), (2, 2**23), (2**23 + 1,)])
def test_parts_of_rows_are_the_tensor_and_no_larger_than_they_must_be(shape: tuple[int, ...]) -> None:
    tensor = np.broadcast_to(np.float32(0), shape)
    parts = [tensor[part] for part in row_slices(shape, 4)]
    assert sum(part.size for part in parts) == tensor.size
    assert all(part.nbytes <= 2**22 or len(part) == 1 for part in parts if part.ndim)


def flushed(change: Any) -> Any:
    def flush(path: Path) -> None:
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content))

    return flush


@pytest.mark.parametrize("position", range(-24, 0))
def test_one_flipped_bit_is_found_and_the_tensor_named(
    position: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flip(content: bytearray) -> bytearray:
        content[position] ^= 1
        return content

    monkeypatch.setattr(safetensors_writer, "flush", flushed(flip))
    name = "a" if position < -12 else "b"
    with pytest.raises(OSError, match=rf"model\.safetensors: read back differently than written: {name}\."):
        write(tmp_path, {"a": random(3), "b": random(3)})


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_file_of_other_tensors_is_found(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": random(3), "b": random(3)}
    others = {"a": tensors["a"]} if change == "missing" else {**tensors, "c": tensors["a"]}
    save_file(others, tmp_path / "other", metadata={"format": "pt"})
    other = (tmp_path / "other").read_bytes()
    monkeypatch.setattr(safetensors_writer, "flush", flushed(lambda _: other))
    with pytest.raises(OSError, match="than written: the header"):
        write(tmp_path, tensors)


@pytest.mark.parametrize("lost", [1, 12, 13])
def test_a_file_that_lost_its_end_is_found(lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_writer, "flush", flushed(lambda content: content[:-lost]))
    with pytest.raises(OSError, match="than written: its size"):
        write(tmp_path, {"a": random(3), "b": random(3)})


def test_a_tensor_that_is_not_what_its_header_says_is_refused(tmp_path: Path) -> None:
    source = TensorSource((2, 3), np.dtype(np.float32), lambda _: random(3, 2))
    with pytest.raises(ValueError, match=r"w: is float32 \[3, 2\], and the file's header says float32 \[2, 3\]"):
        write_sharded(tmp_path, {"w": source}, max_shard_size="5GB", progress=lambda _: None)
