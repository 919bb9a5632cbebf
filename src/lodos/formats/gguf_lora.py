"""A LoRA adapter as a GGUF file, both ways: what llama.cpp loads with `--lora`.

    blk.0.attn_q.weight.lora_a   [r, in]
    blk.0.attn_q.weight.lora_b   [out, r], rows in llama.cpp's order
    token_embd.weight.lora_a     [vocab, r]

llama.cpp multiplies the product by `adapter.lora.alpha / r`, with one alpha for all modules (`get_scale` in its
`src/llama-adapter.h`). Where modules differ in it, B is multiplied by the rest.
"""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from lodos.errors import UserError
from lodos.formats.factors import EMBEDDING, Factors
from lodos.formats.gguf_architecture import GgufArchitecture
from lodos.formats.gguf_file import GgufTensor, GgufType, file_type, read_gguf, type_of, write_gguf
from lodos.formats.gguf_rotation import rows_for_half_rotation, rows_for_neighbour_rotation
from lodos.formats.safetensors_writer import TensorSource

ALPHA = "adapter.lora.alpha"


def save_gguf_lora(
    factors: Mapping[str, Factors],
    architecture: GgufArchitecture,
    path: Path,
    wanted: GgufType,
    *,
    name: str,
    progress: bool = False,
) -> list[str]:
    """Writes an adapter to the file `path`.

    Args:
        name: what llama.cpp shows.

    Returns:
        What is not exact in the file, a sentence each.

    Raises:
        UserError: for a module that llama.cpp has not.
        OSError: if what is read back is not what was written.
    """
    alphas = {module: found.scale * found.rank for module, found in factors.items()}
    alpha = max(alphas.values(), key=list(alphas.values()).count)
    tensors = {}
    for module, found in factors.items():
        gguf_name = architecture.tensor_name(f"{module}.weight")
        rest = alphas[module] / alpha
        B = found.B if rest == 1 else found.B * np.float32(rest)
        heads = architecture.heads_to_reorder(module)
        B = B if heads is None else rows_for_neighbour_rotation(B, heads)
        A = found.A.T if module == EMBEDDING else found.A
        for suffix, factor in ((".lora_a", A), (".lora_b", B)):
            source = TensorSource.of(np.asarray(factor, np.float32))
            tensors[gguf_name + suffix] = GgufTensor(source, type_of(gguf_name + suffix, factor.shape, wanted))

    def add_fields(writer: gguf.GGUFWriter) -> None:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(ALPHA, alpha)
        writer.add_file_type(file_type(wanted))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)

    write_gguf(path, architecture.name, tensors, add_fields, progress=progress)
    others = sorted(module for module, found in alphas.items() if found != alpha)
    if not others:
        return []
    return [f"llama.cpp has one alpha for all modules; of {len(others)} others, such as {others[0]}, the rest is in B."]


def read_gguf_lora(path: Path, architecture: GgufArchitecture, modules: list[str]) -> dict[str, Factors]:
    """The factors in a GGUF file by Hugging Face's names of the modules.

    Args:
        modules: the names of the modules that can be adapted.

    Raises:
        UserError: for a file that is damaged, no adapter, one of another architecture, or has tensors of no module.
    """
    fields, tensors = read_gguf(path)
    found = {name: fields.get(name) for name in ("general.type", gguf.Keys.Adapter.TYPE)}
    if tuple(found.values()) != (gguf.GGUFType.ADAPTER, "lora"):
        raise UserError(
            f"{path}: no LoRA adapter: {', '.join(f'{name} is {value!r}' for name, value in found.items())}."
        )
    if fields.get("general.architecture") != architecture.name:
        raise UserError(
            f"{path}: an adapter of {fields.get('general.architecture')!r}, and the base is llama.cpp's "
            f"{architecture.name!r}. Give its own base: --model FOLDER."
        )
    alpha = fields.get(ALPHA)
    names = {architecture.tensor_name(f"{module}.weight"): module for module in modules}
    pairs: dict[str, dict[str, np.ndarray]] = {}
    problems = []
    for name, tensor in tensors.items():
        base, _, suffix = name.rpartition(".")
        if base not in names or suffix not in ("lora_a", "lora_b"):
            problems.append(f"{name}: no module of the base model takes it.")
            continue
        factor = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        pairs.setdefault(names[base], {})[suffix] = factor
    problems += [
        f"{module}: {next(iter(pair))} alone, without the other factor."
        for module, pair in pairs.items()
        if len(pair) < 2
    ]
    if problems:
        raise UserError(f"{path}:\n  " + "\n  ".join(problems))
    return {module: _factors(module, pair, alpha, architecture) for module, pair in pairs.items()}


def _factors(
    module: str, pair: Mapping[str, np.ndarray], alpha: float | None, architecture: GgufArchitecture
) -> Factors:
    A, B = pair["lora_a"], pair["lora_b"]
    A = A.T if module == EMBEDDING else A
    heads = architecture.heads_to_reorder(module)
    if heads is not None and B.shape[0] % (2 * heads) == 0:
        B = rows_for_half_rotation(B, heads)
    # An alpha of zero means that the product is taken as it is.
    return Factors(np.ascontiguousarray(A), np.ascontiguousarray(B), alpha / len(A) if alpha else 1.0)
