"""A safetensors file on a store: its header is one request, and of a tensor only the rows asked for are read.

    8 bytes         little-endian: how long the header is
    header          JSON: {name: {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
    data            each tensor in C order at its offsets, counted from here

The format: https://huggingface.co/docs/safetensors. The names of methods are those of `safetensors.safe_open`.
"""

import math
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np

from lodos.git_lfs import pointer_problem
from lodos.json_files import is_whole, parse_json
from lodos.places.objects import read_object
from lodos.places.ranges import KeptRanges, RangedFile
from lodos.places.store import ask

if TYPE_CHECKING:
    from upath import UPath

_FIRST_BYTES = 256 * 2**10
"""Of a file, in which most headers end."""
_LONGEST_HEADER = 100 * 10**6
"""safetensors refuses a longer one."""


class RemoteSafetensors:
    """The tensors of one file.

    Args:
        dtypes: numpy's types by safetensors' words.
        kept: what was read of this file and of those beside it.

    Raises:
        ValueError: when it is not whole or no such file.
        OSError: when the store refuses.
        StoreFailingError: when it fails.
    """

    def __init__(self, place: "UPath", dtypes: dict[str, np.dtype], kept: KeptRanges):
        self._dtypes = dtypes
        size = int(ask(place, "info")["size"])
        head = read_object(place, 0, min(_FIRST_BYTES, size))
        if problem := pointer_problem(head):
            raise ValueError(problem)
        length = int.from_bytes(head[:8], "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"of its {size} bytes the header would be {length}")
        if 8 + length > len(head):
            head = read_object(place, 0, 8 + length)
        header = parse_json(head[8 : 8 + length], object_pairs_hook=_without_repeats)
        if not isinstance(header, dict):
            raise ValueError("the header is no mapping")
        for name, tensor in header.items():
            if name != "__metadata__":
                _check(name, tensor, dtypes)
        self._begin = 8 + length
        self._tensors: dict[str, dict[str, Any]] = {k: v for k, v in header.items() if k != "__metadata__"}
        self._file = RangedFile(place, size, kept)
        end = 0
        for name, tensor in sorted(self._tensors.items(), key=lambda item: item[1]["data_offsets"]):
            start, stop = tensor["data_offsets"]
            if start != end or stop < start:
                raise ValueError(f"{name} has the bytes {start} to {stop}, where those before it end at {end}")
            end = stop
        if self._begin + end != size:
            raise ValueError(f"has {size} bytes where the header says {self._begin + end}")

    def keys(self) -> list[str]:
        return list(self._tensors)

    def get_slice(self, name: str) -> "RemoteTensor":
        return RemoteTensor(self._tensors[name], self._file, self._begin, self._dtypes)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the header names a tensor or a field of one twice")
    return found


def _check(name: str, tensor: Any, dtypes: dict[str, np.dtype]) -> None:
    """
    Raises:
        ValueError: for a tensor whose dtype, shape and place do not go together.
    """
    if not isinstance(tensor, dict) or not tensor.keys() >= {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} has no dtype, shape and data_offsets")
    dtype, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    numbers = [*(shape if isinstance(shape, list) else [None]), *(offsets if isinstance(offsets, list) else [None])]
    if not isinstance(dtype, str) or not all(is_whole(number, 0) for number in numbers) or len(offsets) != 2:
        raise ValueError(f"{name} has another dtype, shape or data_offsets than a tensor can have")
    if dtype in dtypes and offsets[1] - offsets[0] != math.prod(shape) * dtypes[dtype].itemsize:
        raise ValueError(f"{name} has {offsets[1] - offsets[0]} bytes for {shape} of {dtype}")


class RemoteTensor:
    """One tensor: `[index]` reads the rows that the first slice asks for, and takes the other slices of them."""

    def __init__(self, fields: dict[str, Any], file: RangedFile, begin: int, dtypes: dict[str, np.dtype]):
        self._fields = fields
        self._file = file
        self._start = begin + int(fields["data_offsets"][0])
        self._dtypes = dtypes

    def get_dtype(self) -> str:
        return self._fields["dtype"]

    def get_shape(self) -> list[int]:
        return self._fields["shape"]

    def __getitem__(self, index: slice | tuple[slice, ...] | EllipsisType) -> np.ndarray:
        dtype, shape = self._dtypes[self.get_dtype()], self.get_shape()
        index = (slice(None),) if index is ... else index if isinstance(index, tuple) else (index,)
        if not shape:
            rows, others, row_shape, row_bytes = (0, 1), (), (), dtype.itemsize
        else:
            start, stop, step = index[0].indices(shape[0])
            assert step == 1
            rows, others, row_shape = (start, max(start, stop)), index[1:], shape[1:]
            row_bytes = math.prod(row_shape) * dtype.itemsize
        data = self._file.read(self._start + rows[0] * row_bytes, self._start + rows[1] * row_bytes)
        read = np.frombuffer(data, dtype).reshape((rows[1] - rows[0], *row_shape) if shape else ())
        return read[(slice(None), *others)] if others else read
