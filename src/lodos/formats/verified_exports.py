"""Whether what was written for other programs is whole, and is what it says it is: folders with GGUF files, and MLX's.

As in `verified.py` nothing of the base model is needed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from lodos.errors import UserError
from lodos.formats.gguf_file import read_gguf
from lodos.formats.mlx import is_mlx_adapter, read_mlx
from lodos.formats.verified import Findings, listed, look_at_files
from lodos.prompting.description import read_prompting
from lodos.row_slices import row_slices

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor

_ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


def is_exported(folder: Path) -> bool:
    """Whether a folder is one of an MLX adapter, or has GGUF files."""
    return is_mlx_adapter(folder) or any(folder.glob("*.gguf"))


def verified_exports(folder: Path) -> Findings:
    """What such a folder shows of itself: bytes, numbers, pairs of factors, end tokens."""
    found = Findings("exported")
    look_at_files(folder, found)
    looks = [_look_at_mlx] if is_mlx_adapter(folder) else []
    for look in (*looks, _look_at_gguf):
        try:
            look(folder, found)
        except UserError as error:
            found.problems += str(error).splitlines()
    return found


def _look_at_mlx(folder: Path, found: Findings) -> None:
    factors, _, _ = read_mlx(folder)
    for module, pair in factors.items():
        found.problems += _factor_problems(module, {"lora_a": pair.A, "lora_b": pair.B}, (pair.A.shape[0], pair.rank))
    found.seen.append(f"MLX adapter of {len(factors)} modules, all finite, every lora_b trained")


def _look_at_gguf(folder: Path, found: Findings) -> None:
    for file in sorted(folder.glob("*.gguf")):
        fields, tensors = read_gguf(file)
        if not tensors:
            found.problems.append(f"{file.name}: has no tensors.")
        if fields.get("general.type") == gguf.GGUFType.ADAPTER:
            found.problems += [f"{file.name}: {problem}" for problem in _adapter_problems(tensors)]
            found.seen.append(f"{file.name}: adapter of {len(tensors) // 2} modules, all finite, every lora_b trained")
        else:
            if wrong := [name for name, tensor in tensors.items() if not _is_finite(tensor)]:
                found.problems.append(f"{file.name}: {listed(wrong)}: numbers that are not finite (NaN or infinite).")
            found.problems += [f"{file.name}: {problem}" for problem in _ending_problems(folder, fields)]
            found.seen.append(f"{file.name}: {len(tensors)} tensors, all finite")


def _adapter_problems(tensors: Mapping[str, "ReaderTensor"]) -> Iterator[str]:
    pairs: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        pairs.setdefault(module, {})[suffix] = gguf.dequantize(tensor.data, tensor.tensor_type)
    for module, pair in pairs.items():
        if missing := {"lora_a", "lora_b"} - pair.keys():
            yield f"{module}: has no {missing.pop()}."
            continue
        # Of the embedding A is written the other way round.
        a, b = pair["lora_a"].shape, pair["lora_b"].shape
        yield from _factor_problems(module, pair, (a[1] if module.startswith("token_embd") else a[0], b[1]))


def _factor_problems(module: str, pair: Mapping[str, np.ndarray], ranks: tuple[int, int]) -> Iterator[str]:
    if ranks[0] != ranks[1]:
        yield f"{module}: lora_a has rank {ranks[0]} and lora_b {ranks[1]}."
    for name, factor in pair.items():
        if not np.isfinite(factor).all():
            yield f"{module}: {name} has numbers that are not finite (NaN or infinite)."
        if not factor.any():
            yield f"{module}: every number of {name} is zero, so it changes nothing."


def _is_finite(tensor: "ReaderTensor") -> bool:
    data = tensor.data
    parts = row_slices(data.shape, data.dtype.itemsize)
    return all(np.isfinite(gguf.dequantize(data[part], tensor.tensor_type)).all() for part in parts)


def _ending_problems(folder: Path, fields: Mapping[str, Any]) -> Iterator[str]:
    prompting = read_prompting(folder)
    ends = {fields.get(name) for name in _ENDS}
    for token in prompting.end_tokens if prompting is not None else ():
        if token.id not in ends:
            yield f"{token.text!r} ({token.id}) ended trained answers, and is no end token of the file."
