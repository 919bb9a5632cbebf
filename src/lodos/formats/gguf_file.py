"""A GGUF file, written tensor by tensor and read back.

The gguf library writes and quantises; here one tensor is held at a time, and what is on the disk is compared.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gguf
import numpy as np

from lodos.errors import UserError
from lodos.files import flush
from lodos.formats.gguf_rotation import rows_for_neighbour_rotation
from lodos.formats.progress import progress_bar
from lodos.formats.safetensors_writer import TensorSource

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

_TYPES: Mapping[str, tuple[gguf.GGMLQuantizationType, gguf.LlamaFileType]] = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q5_1": (gguf.GGMLQuantizationType.Q5_1, gguf.LlamaFileType.MOSTLY_Q5_1),
    "q5_0": (gguf.GGMLQuantizationType.Q5_0, gguf.LlamaFileType.MOSTLY_Q5_0),
    "q4_1": (gguf.GGMLQuantizationType.Q4_1, gguf.LlamaFileType.MOSTLY_Q4_1),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
_BELOW_8_BITS = ("q5_1", "q5_0", "q4_1", "q4_0")
_OF_TOKENS = ("token_embd.weight", "output.weight")


@dataclasses.dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file that is made when it is needed, in float32."""

    source: TensorSource
    type: gguf.GGMLQuantizationType
    heads: int | None = None
    """Whose rows are put in llama.cpp's order."""

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """Of what is written: rows of bytes where it is quantised."""
        return gguf.quant_shape_to_byte_shape(self.source.shape, self.type)

    def bytes(self) -> np.ndarray:
        weight = np.asarray(self.source.whole(), np.float32)
        return gguf.quantize(
            weight if self.heads is None else rows_for_neighbour_rotation(weight, self.heads), self.type
        )


def file_type(wanted: GgufType) -> gguf.LlamaFileType:
    """`general.file_type` of a file of this type."""
    return _TYPES[wanted][1]


def type_of(name: str, shape: tuple[int, ...], wanted: GgufType) -> gguf.GGMLQuantizationType:
    """The type of a tensor in a file of the type `wanted`, by llama.cpp's rules.

    Vectors and norms are float32. Below 8 bits, the embedding and the output head have 8, and where a row is no
    multiple of a block, 16.
    """
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return gguf.GGMLQuantizationType.F32
    found = _TYPES["q8_0" if wanted in _BELOW_8_BITS and name in _OF_TOKENS else wanted][0]
    block, _ = gguf.GGML_QUANT_SIZES[found]
    return found if shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def write_gguf(
    path: Path,
    architecture: str,
    tensors: Mapping[str, GgufTensor],
    add_fields: Callable[[gguf.GGUFWriter], None],
    *,
    progress: bool = False,
) -> None:
    """Writes a GGUF file, one tensor at a time.

    Args:
        add_fields: adds what is not tensors.

    Raises:
        OSError: if what is read back is not what was written.
    """
    writer = gguf.GGUFWriter(path, architecture)
    add_fields(writer)
    for name, tensor in tensors.items():
        shape, dtype = tensor.byte_shape, np.dtype(np.uint8)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)), raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    digests = {}
    with progress_bar("Writing GGUF", len(tensors), enabled=progress) as advance:
        for name, tensor in tensors.items():
            content = np.ascontiguousarray(tensor.bytes()).view(np.uint8)
            writer.write_tensor_data(content)
            digests[name] = _digest(content)
            advance()
    writer.close()
    flush(path)
    read = {tensor.name: _digest(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    if differing := [name for name, digest in digests.items() if read.get(name) != digest]:
        raise OSError(f"{path}: read back differently than written: {', '.join(differing)}.")


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, "ReaderTensor"]]:
    """The fields of a GGUF file by their names, and its tensors, memory-mapped.

    Raises:
        UserError: for a file that is not a whole one.
    """
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not a whole GGUF file: {error}.") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def _digest(content: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(content).reshape(-1).view(np.uint8).data).digest()
