"""Tensors in files: what is written is what is read, slice by slice, and what is not whole is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from lodos.errors import UserError
from lodos.formats.safetensors import SafetensorsReader
from lodos.formats.safetensors_writer import TensorSource, save_and_compare, write_sharded

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def source(array: np.ndarray) -> TensorSource:
    return TensorSource.of(array)


def write(folder: Path, tensors: dict[str, np.ndarray], max_shard_size: str | int = "5GB") -> list[str]:
    """Writes tensors and returns the names that were reported, in order."""
    done: list[str] = []
    sources = {name: source(tensor) for name, tensor in tensors.items()}
    write_sharded(folder, sources, max_shard_size=max_shard_size, progress=done.append)
    return done


def header(path: Path) -> dict[str, Any]:
    """The header of a file by the format's definition, without any library."""
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    dtype = np.dtype(DTYPES[name])
    special = np.array([np.nan, np.inf, -np.inf, -0.0, np.finfo(np.float16).tiny / 4]).astype(dtype)
    tensor = np.concatenate([random(27, dtype=dtype), special]).reshape(4, 8)
    write(tmp_path, {"w": tensor})
    assert header(tmp_path / "model.safetensors")["w"]["dtype"] == name
    reader = SafetensorsReader(tmp_path)
    assert (reader.shapes, reader.dtypes) == ({"w": (4, 8)}, {"w": dtype})
    assert reader.read("w").dtype == dtype
    assert reader.read("w").tobytes() == tensor.tobytes()


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize(
    "index",
    [
        (slice(None),),
        (slice(1, 3),),
        (slice(0, 4), slice(2, 6)),
        (slice(3, 4), slice(5, 6)),
        (slice(None), slice(None), slice(0, 1)),
    ],
)
def test_a_slice_is_that_of_the_array(index: tuple[slice, ...], dtype: Any, tmp_path: Path) -> None:
    tensor = random(4, 6, 2, dtype=dtype)
    write(tmp_path, {"w": tensor})
    found = SafetensorsReader(tmp_path).read("w", index)
    assert found.shape == tensor[index].shape
    assert found.tobytes() == tensor[index].tobytes()


def test_bfloat16_is_what_torch_reads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    tensor = random(3, 5, dtype=ml_dtypes.bfloat16)
    write(tmp_path, {"w": tensor})
    theirs = load_torch(tmp_path / "model.safetensors")["w"]
    assert theirs.dtype == torch.bfloat16
    np.testing.assert_array_equal(theirs.float().numpy(), tensor.astype(np.float32))


def test_small_tensors_are_one_file_without_an_index(tmp_path: Path) -> None:
    tensors = {"a": random(3), "b": random(2, 2)}
    assert sorted(write(tmp_path, tensors)) == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert header(tmp_path / "model.safetensors")["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize("limit", [800, "1KB"])
def test_above_the_limit_files_and_index_are_named_as_transformers_names_them(limit: str | int, tmp_path: Path) -> None:
    tensors = {f"t{index}": random(10, 20, seed=index, dtype=ml_dtypes.bfloat16) for index in range(4)}
    assert sorted(write(tmp_path, tensors, limit)) == sorted(tensors)
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [first, second, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 1600  # 400 bytes each, two to a file
    assert index["weight_map"] == {name: first if name < "t2" else second for name in tensors}
    for name in (first, second):
        assert header(tmp_path / name)["__metadata__"] == {"format": "pt"}
        there = {tensor for tensor, file in index["weight_map"].items() if file == name}
        assert header(tmp_path / name).keys() - {"__metadata__"} == there
    reader = SafetensorsReader(tmp_path)
    assert reader.shapes.keys() == tensors.keys()
    assert all(np.array_equal(reader.read(name), tensor) for name, tensor in tensors.items())


def test_a_tensor_above_the_limit_has_a_file_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, {"small": random(2), "large": random(100), "little": random(3)}, 100)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert SafetensorsReader(tmp_path).read("large").nbytes == 400


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_a_truncated_file_is_refused_by_name(kept: int, tmp_path: Path) -> None:
    write(tmp_path, {"w": random(5, 5)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model\.safetensors: not a whole safetensors file"):
        SafetensorsReader(tmp_path)


def test_bytes_after_the_tensors_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"w": random(5, 5)})
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        SafetensorsReader(tmp_path)


def test_all_broken_files_and_odd_dtypes_are_in_one_error(tmp_path: Path) -> None:
    write(tmp_path, {f"t{index}": random(25, seed=index) for index in range(3)}, 100)
    first, second, third = sorted(tmp_path.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"not safetensors")
    save_file({"ids": np.arange(3)}, third)
    with pytest.raises(UserError) as error:
        SafetensorsReader(tmp_path)
    assert f"{first}: not a whole" in str(error.value)
    assert f"{second}: not a whole" in str(error.value)
    assert f"{tmp_path}: ids: I64, not one of F64, F32, F16, BF16" in str(error.value)


def test_files_that_the_index_names_and_that_are_not_there_are_all_listed(tmp_path: Path) -> None:
    write(tmp_path, {f"t{index}": random(25, seed=index) for index in range(3)}, 100)
    first, _, third = sorted(tmp_path.glob("*.safetensors"))
    first.unlink()
    third.unlink()
    with pytest.raises(UserError, match=f"files that are not there: {first.name}, {third.name}"):
        SafetensorsReader(tmp_path)


def test_an_index_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": ')
    with pytest.raises(UserError, match=r"model.safetensors.index.json: not valid JSON"):
        SafetensorsReader(tmp_path)


@pytest.mark.parametrize("index", [{}, [], {"weight_map": ["model.safetensors"]}, {"weight_map": {"w": 1}}])
def test_an_index_without_a_weight_map_is_an_error_of_the_users(index: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model.safetensors.index.json"):
        SafetensorsReader(tmp_path)


def test_files_that_the_index_does_not_name_are_not_read(tmp_path: Path) -> None:
    save_file({"w": random(3)}, tmp_path / "named.safetensors")
    (tmp_path / "consolidated.safetensors").write_bytes(b"of another format")
    write_index(tmp_path, {"w": "named.safetensors"})
    assert SafetensorsReader(tmp_path).shapes == {"w": (3,)}


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    save_file({"w": random(3, seed=1)}, tmp_path / "one.safetensors")
    save_file({"w": random(3, seed=2), "v": random(3)}, tmp_path / "two.safetensors")
    write_index(tmp_path, {"w": "one.safetensors", "v": "two.safetensors"})
    with pytest.raises(UserError, match="w"):
        SafetensorsReader(tmp_path)


@pytest.mark.parametrize("absolute", [False, True])
def test_an_index_that_leads_out_of_the_folder_is_refused(absolute: bool, tmp_path: Path) -> None:
    save_file({"w": random(3)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    write_index(folder, {"w": str(tmp_path / "outside.safetensors") if absolute else "../outside.safetensors"})
    with pytest.raises(UserError, match=r"outside\.safetensors"):
        SafetensorsReader(folder)


def test_where_a_whole_file_lies_beside_an_index_it_is_read_as_transformers_does(tmp_path: Path) -> None:
    save_file({"w": random(3, seed=1)}, tmp_path / "model.safetensors")
    save_file({"w": random(3, seed=2)}, tmp_path / "model-00001-of-00001.safetensors")
    write_index(tmp_path, {"w": "model-00001-of-00001.safetensors"})
    np.testing.assert_array_equal(SafetensorsReader(tmp_path).read("w"), random(3, seed=1))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(UserError, match=r"no safetensors; pytorch_model.bin.*can run any code"):
        SafetensorsReader(tmp_path)


def test_an_empty_or_absent_folder_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"no model.safetensors and no model.safetensors.index.json"):
            SafetensorsReader(folder)


def test_one_file_is_read_by_its_path(tmp_path: Path) -> None:
    save_and_compare(tmp_path / "adapter_model.safetensors", {"w": random(3)})
    reader = SafetensorsReader(tmp_path / "adapter_model.safetensors")
    np.testing.assert_array_equal(reader.read("w"), random(3))
    with safe_open(tmp_path / "adapter_model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


READS_A_ROW = """
import sys
from pathlib import Path
from lodos.formats.safetensors import SafetensorsReader
from lodos.train.memory import peak_memory
SafetensorsReader(Path(sys.argv[1])).read("small")
before = peak_memory()[1]
reader = SafetensorsReader(Path(sys.argv[2]))
row = reader.read("large", (slice(1000, 1001),))
print(row[0, 0], peak_memory()[1] - before)
"""


def test_of_a_large_file_only_what_is_asked_for_is_in_memory(tmp_path: Path) -> None:
    large = np.zeros((2048, 16384), np.float32)  # 128 MiB
    large[1000] = 7.0
    save_file({"large": large}, tmp_path / "large.safetensors")
    save_file({"small": large[:1, :1]}, tmp_path / "small.safetensors")
    command = [
        sys.executable,
        "-c",
        READS_A_ROW,
        str(tmp_path / "small.safetensors"),
        str(tmp_path / "large.safetensors"),
    ]
    value, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert float(value) == 7.0
    assert int(grown) < 2**24
