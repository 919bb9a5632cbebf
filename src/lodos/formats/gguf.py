"""From a GGUF file of a Llama-architecture model to a Hugging Face folder, without torch.

GGUF keeps everything in one file: settings, tokenizer, chat template and weights, these often quantised. The
weights are dequantised to float32, which loses nothing of what the file holds. Two things differ from the
Hugging Face layout:

- the names, of which the gguf library has the table;
- the rows of the q and k projections. llama.cpp turns neighbouring features by rotary positions, Hugging Face
  features half a head apart, so llama.cpp reorders the rows, and here the order is put back.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from lodos.errors import UserError
from lodos.files import write_json, written_whole
from lodos.formats.gguf_file import read_gguf
from lodos.formats.gguf_rotation import rows_for_half_rotation
from lodos.formats.gguf_tokenizer import save_tokenizer
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.progress import progress_bar
from lodos.formats.safetensors_writer import MAX_SHARD_SIZE, TensorSource, write_sharded
from lodos.tree import layer_names, named_leaves

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor

ARCHITECTURE = "llama"

_UNDERSTOOD = frozenset(
    f"{ARCHITECTURE}.{name}"
    for name in (
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "vocab_size",
    )
)
"""The settings of the architecture that end up in config.json; any other would be lost, and is refused."""


def convert_gguf(path: Path, folder: Path, *, progress: bool = False) -> None:
    """Writes the model in the GGUF file `path` to `folder`: config, float32 safetensors, tokenizer, chat template.

    Raises:
        UserError: for another architecture or tokenizer, or tensors that are missing or not understood; it lists
            them all, and nothing is left at `folder`.
    """
    try:
        _convert(path, folder, progress=progress)
    except (UserError, OSError):
        raise
    # gguf, tokenizers and transformers each have their own for what they are not made for.
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a sound GGUF file: {type(error).__name__}: {said}") from None


def _convert(path: Path, folder: Path, *, progress: bool) -> None:
    fields, tensors = read_gguf(path)
    if (architecture := fields.get("general.architecture")) != ARCHITECTURE:
        raise UserError(f"{path}: general.architecture is {architecture!r}; only {ARCHITECTURE} can be converted.")
    _refuse_lost_settings(path, fields)
    with written_whole(folder) as place:
        save_tokenizer(fields, place, source=path)
        _write_configs(path, fields, tensors, place)
        sources = _sources(path, fields, tensors, place)
        with progress_bar("Converting GGUF", len(sources), enabled=progress) as advance:
            write_sharded(place, sources, max_shard_size=MAX_SHARD_SIZE, progress=lambda _: advance())


def _refuse_lost_settings(path: Path, fields: Mapping[str, Any]) -> None:
    """Refuses what would make the converted model compute something else than the file's."""
    head_dim = fields.get(f"{ARCHITECTURE}.rope.dimension_count")
    problems = [
        f"{name}: {value!r} is not understood."
        for name, value in fields.items()
        if name.startswith(f"{ARCHITECTURE}.") and name not in _UNDERSTOOD and value not in ("none", 0, False)
    ]
    problems += [
        f"{name}: {fields[name]}, but rope.dimension_count is {head_dim}."
        for name in (f"{ARCHITECTURE}.attention.key_length", f"{ARCHITECTURE}.attention.value_length")
        if head_dim is not None and fields.get(name, head_dim) != head_dim
    ]
    if problems:
        raise UserError(f"{path}: settings that a plain Llama does not have:\n  " + "\n  ".join(problems))


def _write_configs(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Any], folder: Path) -> None:
    """Writes config.json and generation_config.json as transformers would."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlamaConfig

    def setting(name: str) -> Any:
        key = f"{ARCHITECTURE}.{name}"
        if key not in fields:
            raise UserError(f"{path}: no {key}.")
        return fields[key]

    heads, width = setting("attention.head_count"), setting("embedding_length")
    special: dict[str, Any] = {
        name: fields.get(f"tokenizer.ggml.{source}_token_id")
        for name, source in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"))
    }
    try:
        config = LlamaConfig(
            vocab_size=len(fields["tokenizer.ggml.tokens"]),
            hidden_size=width,
            intermediate_size=setting("feed_forward_length"),
            num_hidden_layers=setting("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=fields.get(f"{ARCHITECTURE}.attention.head_count_kv", heads),
            head_dim=fields.get(f"{ARCHITECTURE}.rope.dimension_count", width // heads),
            max_position_embeddings=setting("context_length"),
            rms_norm_eps=_shortest(setting("attention.layer_norm_rms_epsilon")),
            rope_parameters={
                "rope_type": "default",
                "rope_theta": _shortest(fields.get(f"{ARCHITECTURE}.rope.freq_base", 10000.0)),
            },
            tie_word_embeddings="output.weight" not in tensors,
            attention_bias="blk.0.attn_q.bias" in tensors,
            architectures=["LlamaForCausalLM"],
            dtype="float32",
            **special,
        )
    except StrictDataclassError as error:
        raise UserError(f"{path}: transformers refuses its settings: {error}") from None
    config.save_pretrained(folder)
    write_json(folder / "generation_config.json", {name: value for name, value in special.items() if value is not None})


def _sources(
    path: Path, fields: Mapping[str, Any], tensors: Mapping[str, "ReaderTensor"], folder: Path
) -> dict[str, TensorSource]:
    """The tensors by Hugging Face name, dequantised when they are written."""
    converter = HFCheckpointConverter.from_hf(str(folder))
    config = converter.config
    gguf_names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    sources, problems, used = {}, [], set()
    for stacked_name, leaf in named_leaves(converter.structure()).items():
        shape = leaf.shape[1:] if "*" in stacked_name else leaf.shape
        for name in layer_names(stacked_name, leaf.shape[0]):
            module, suffix = name.rsplit(".", 1)
            gguf_name = f"{gguf_names.get_name(module)}.{suffix}"
            used.add(gguf_name)
            if gguf_name not in tensors:
                problems.append(f"{gguf_name}: missing.")
                continue
            tensor = tensors[gguf_name]
            found = tuple(int(size) for size in reversed(tensor.shape))
            if found != shape:
                problems.append(f"{gguf_name}: {list(found)}, the settings ask for {list(shape)}.")
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
            rows = _rows(tensor, heads.get(module.rsplit(".", 1)[-1]))
            sources[name] = TensorSource(shape, np.dtype(np.float32), rows)
    problems += [f"{name}: not understood." for name in tensors if name not in used]
    if problems:
        raise UserError(f"{path}: the tensors are not those of a plain Llama:\n  " + "\n  ".join(problems))
    return sources


def _rows(tensor: "ReaderTensor", heads: int | None) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """Rows of a tensor, put in Hugging Face's order where there are heads."""
    order = np.arange(len(tensor.data))
    order = order if heads is None else rows_for_half_rotation(order, heads)
    return lambda part: np.asarray(gguf.dequantize(tensor.data[order[part]], tensor.tensor_type), np.float32)


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05 rather than 9.999999747378752e-06."""
    return float(str(np.float32(value)))
