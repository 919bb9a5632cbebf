"""Tensors to the files of a model folder, some rows at a time: whoever writes needs room for these, and no more.

The safetensors library writes tensors that are all in memory. Here the header comes first, made of shapes and dtypes
that are known beforehand, and the tensors follow as they are made. The bytes are those that the library would
write.
The format: https://github.com/huggingface/safetensors#format
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory

from lodos.files import check_room, flush, write_json
from lodos.formats.safetensors import DTYPES, INDEX_NAME, SafetensorsReader
from lodos.row_slices import row_slices

MAX_SHARD_SIZE = "5GB"

METADATA = {"format": "pt"}
"""transformers refuses a file without it."""

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_FILE_ORDER = ["F64", "F32", "BF16", "F16"]
"""In which the library has the dtypes in a file, the most aligned first."""


@dataclasses.dataclass(frozen=True)
class TensorSource:
    """A tensor that is made when it is needed."""

    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[tuple[slice, ...]], np.ndarray]
    """Makes one of its `slices`."""

    @staticmethod
    def of(array: np.ndarray) -> "TensorSource":
        return TensorSource(array.shape, array.dtype, array.__getitem__)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def slices(self) -> Iterator[tuple[slice, ...]]:
        """In which, and in whose order, it is written."""
        return row_slices(self.shape, self.dtype.itemsize)

    def whole(self) -> np.ndarray:
        whole = np.empty(self.shape, self.dtype)
        for part in self.slices():
            whole[part] = self.rows(part)
        return whole


def write_sharded(
    folder: Path, tensors: Mapping[str, TensorSource], *, max_shard_size: str | int, progress: Callable[[str], None]
) -> None:
    """Writes tensors as transformers does: one file, or shards with an index above `max_shard_size`.

    Rows are made, written and let go before the next ones are made. Each file is read back and compared when it is on
    the disk.

    Args:
        progress: called with the name of each tensor when it is written.

    Raises:
        OSError: if what is read back is not what was written.
    """
    split = _split(tensors, max_shard_size)
    check_room(folder, sum(tensor.nbytes for tensor in tensors.values()))
    for filename, names in split.filename_to_tensors.items():
        write_file(folder / filename, {name: tensors[name] for name in names}, progress=progress)
    if split.is_sharded:
        write_json(folder / INDEX_NAME, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})


def in_files(tensors: Mapping[str, TensorSource], max_shard_size: str | int) -> list[str]:
    """The tensors in the order in which `write_sharded` asks for them."""
    files = _split(tensors, max_shard_size).filename_to_tensors.values()
    return [name for names in files for name in _in_file_order({name: tensors[name] for name in names})]


def save_and_compare(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one safetensors file of arrays and proves that it holds what was meant.

    Raises:
        OSError: if what is read back is not what was written.
    """
    sources = {name: TensorSource.of(tensor) for name, tensor in tensors.items()}
    write_file(path, sources, progress=lambda _: None)


def write_file(path: Path, tensors: Mapping[str, TensorSource], *, progress: Callable[[str], None]) -> None:
    """Writes one safetensors file, tensor by tensor, and proves that it holds what was meant.

    Of each tensor its SHA-256 is kept, and compared with that of what is read back.

    Raises:
        OSError: if what is read back is not what was written.
    """
    names, digests = _in_file_order(tensors), {}
    header = _header({name: tensors[name] for name in names})
    check_room(path.parent, len(header) + sum(tensor.nbytes for tensor in tensors.values()))
    with path.open("wb") as file:
        file.write(header)
        for name in names:
            digests[name] = _write_tensor(file, name, tensors[name])
            progress(name)
    flush(path)
    with path.open("rb") as file:
        differing = "the header" if file.read(len(header)) != header else ""
    if path.stat().st_size != len(header) + sum(tensor.nbytes for tensor in tensors.values()):
        differing = differing or "its size"
    if differing:
        raise OSError(f"{path}: read back differently than written: {differing}.")
    written = SafetensorsReader(path)
    if differing := [name for name in names if _digest_of(written, name) != digests[name]]:
        raise OSError(f"{path}: read back differently than written: {', '.join(differing)}.")


def _split(tensors: Mapping[str, TensorSource], max_shard_size: str | int) -> StateDictSplit:
    return split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )


def _in_file_order(tensors: Mapping[str, TensorSource]) -> list[str]:
    return sorted(tensors, key=lambda name: (_FILE_ORDER.index(_CODES[tensors[name].dtype]), name))


def _header(tensors: Mapping[str, TensorSource]) -> bytes:
    """What is before the tensors' bytes: a length, and JSON that spaces fill up to a multiple of eight bytes."""
    fields: dict[str, object] = {"__metadata__": METADATA}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        fields[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(file: BinaryIO, name: str, source: TensorSource) -> bytes:
    """Writes the bytes of a tensor and returns their digest."""
    digest = hashlib.sha256()
    for part in source.slices():
        rows = source.rows(part)
        shape = tuple(at.stop - at.start for at in part) + source.shape[len(part) :]
        if (rows.shape, rows.dtype) != (shape, source.dtype):
            found, meant = f"{rows.dtype} {list(rows.shape)}", f"{source.dtype} {list(shape)}"
            raise ValueError(f"{name}: is {found}, and the file's header says {meant}.")
        content = _bytes_of(rows)
        file.write(content)
        digest.update(content)
    return digest.digest()


def _digest_of(written: SafetensorsReader, name: str) -> bytes:
    digest = hashlib.sha256()
    for part in row_slices(written.shapes[name], written.dtypes[name].itemsize):
        digest.update(_bytes_of(written.read(name, part)))
    return digest.digest()


def _bytes_of(array: np.ndarray) -> memoryview:
    """In the order of the elements, whatever the strides say; a view where they say so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
