"""Tensors of a model folder, read lazily slice by slice.

A folder holds one `model.safetensors`, or several files and an index that says which tensor is where. Nothing is
read until a slice is asked for, and then only that slice. Nothing is ever unpickled: a `.bin` is refused.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from lodos.config_secrets import shown
from lodos.errors import UserError
from lodos.formats.foreign_folders import foreign_weights
from lodos.formats.remote_safetensors import RemoteSafetensors
from lodos.formats.tensor_problems import problem_lines
from lodos.git_lfs import refuse_pointers
from lodos.json_files import OBJECT, Kind, field_problems, parse_json, read_object, refuse_fields
from lodos.places import objects
from lodos.places.looking import is_file, names_in
from lodos.places.place import Place, is_remote
from lodos.places.ranges import KeptRanges
from lodos.places.store import refusals

if TYPE_CHECKING:
    from upath import UPath

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

# Pages of a mapped file that were read stay in the process's memory until the file is closed: after so many bytes it is
# opened anew. (Not at each read: the headers of large models are long.)
_MAPPED_BYTES = 16 * 2**20

_LONGEST_NAME = 200
_MOST_AXES, _LARGEST = 32, 2**58
"""NumPy's arrays have no more axes, and no more elements in the axes that are not empty."""

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The floating-point types of safetensors that weights may have."""


class SafetensorsReader:
    """The tensors of one safetensors file, or of a folder of them, here or on a store."""

    def __init__(self, path: Place, *, floats_only: bool = True, called: Callable[[str], str] = lambda name: name):
        """Opens the file or folder and reads the headers, no weights.

        Args:
            floats_only: refuse tensors of other types than `DTYPES`; else they are in `others`, and cannot be read.
            called: what a tensor of the files is called here.

        Raises:
            UserError: if there is no safetensors file, a file of the index is missing, or one cannot be parsed.
        """
        self.path = path
        self._handles: dict[Place, Any] = {}
        self._bytes_read = 0
        self._kept = KeptRanges()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.others: dict[str, str] = {}
        """Tensors of other types, and these in safetensors' words."""
        self.name_in_file: dict[str, str] = {}
        """What each tensor is called in the files."""
        self._file_of: dict[str, Place] = {}
        problems = []
        with refusals("weights", path):
            files = [path] if is_file(path) else _files_of(path)
        for file in files:
            try:
                handle = self._opened(file)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                problems.append(_unreadable(file, error))
                continue
            if is_remote(file):
                self._handles[file] = handle
            for in_file in handle.keys():  # noqa: SIM118 - the handle is no mapping
                name = called(in_file)
                if name in self._file_of:
                    problems.append(f"{file}: {name} is in {self._file_of[name].name} too.")
                    continue
                part = handle.get_slice(in_file)
                if part.get_dtype() not in DTYPES:
                    self.others[name] = part.get_dtype()
                    continue
                shape = tuple(part.get_shape())
                if len(shape) > _MOST_AXES or math.prod(max(1, size) for size in shape) > _LARGEST:
                    problems.append(f"{file}: {name}: no array has the shape {shown(list(shape))}.")
                    continue
                self.shapes[name] = shape
                self.dtypes[name] = DTYPES[part.get_dtype()]
                self._file_of[name] = file
                self.name_in_file[name] = in_file
        if floats_only:
            problems += self.type_problems()
        if problems:
            raise UserError("\n".join(problems))

    def type_problems(self) -> list[str]:
        """What to say of tensors of other types."""
        known = ", ".join(DTYPES)
        lines = problem_lines((name, f"{kind}, not one of {known}") for name, kind in self.others.items())
        return [f"{self.path}: {line}" for line in lines]

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """The slice `index` of a tensor, the whole tensor by default."""
        if self._bytes_read > _MAPPED_BYTES:
            self._handles = {place: handle for place, handle in self._handles.items() if is_remote(place)}
            self._bytes_read = 0
        file = self._file_of[name]
        if file not in self._handles:
            self._handles[file] = self._opened(file)
        part = self._handles[file].get_slice(self.name_in_file[name])
        tensor = part[index or ...]
        # Of rows that are read in part, all pages may be.
        self._bytes_read += tensor.nbytes if len(index) < 2 else len(tensor) * _row_bytes(self.shapes[name], tensor)
        return tensor

    def _opened(self, file: Place) -> Any:
        return RemoteSafetensors(file, DTYPES, self._kept) if is_remote(file) else safe_open(file, framework="np")


def _row_bytes(shape: tuple[int, ...], tensor: np.ndarray) -> int:
    return math.prod(shape[1:]) * tensor.itemsize


def _unreadable(file: Place, error: Exception) -> str:
    if not is_remote(file):
        try:
            refuse_pointers(file)
        except UserError as pointer:
            return str(pointer)
    return f"{file}: not a whole safetensors file: {error}."


def _files_of(folder: Place) -> list[Place]:
    # Where both are there, transformers reads the one file.
    there = names_in(folder)
    if WEIGHTS_NAME in there:
        return [folder / WEIGHTS_NAME]
    if INDEX_NAME in there:
        names = _names_in_index(folder / INDEX_NAME)
        if missing := [name for name in names if name not in there]:
            raise UserError(f"{folder}: {INDEX_NAME} names files that are not there: {', '.join(missing)}.")
        return [folder / name for name in names]
    if (foreign := foreign_weights(folder)) is not None:
        raise UserError(foreign)
    raise UserError(f"{folder}: no {WEIGHTS_NAME} and no {INDEX_NAME}.")


def _names_in_index(path: Place) -> list[str]:
    kinds = {"weight_map": OBJECT}
    index = _object_on_store(path, kinds) if is_remote(path) else read_object(path, kinds)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{path}: no weight_map from tensors to file names.")
    names = sorted(set(weight_map.values()))
    # Names are compared, not resolved: in the hub's cache the files are links to elsewhere.
    if outside := [name for name in names if Path(name).name != name or "\0" in name]:
        raise UserError(f"{path}: names files outside its folder: {', '.join(map(shown, outside[:5]))}.")
    if others := [name for name in names if not name.endswith(".safetensors") or len(name) > _LONGEST_NAME]:
        raise UserError(f"{path}: names files that are no safetensors: {', '.join(map(shown, others[:5]))}.")
    return names


def _object_on_store(place: "UPath", kinds: dict[str, Kind]) -> dict[str, Any]:
    try:
        value = parse_json(objects.read_object(place))
    except ValueError as error:
        raise UserError(f"{place}: not valid JSON: {error}.") from None
    refuse_fields(place, field_problems(value, kinds))
    return value
