"""Folders that hold a model in another form than lodos reads: what they are, and what to give instead."""

import fnmatch
from pathlib import Path

from lodos.errors import UserError
from lodos.places.looking import names_in
from lodos.places.place import Place

CONFIG = "config.json"
_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt")
_PICKLE = (
    "a Python pickle, which can run any code when it is opened. Load the model once in transformers and save it again: "
    "save_pretrained writes safetensors"
)
_WITHOUT_CONFIG: tuple[tuple[str, str], ...] = (
    ("model_index.json", "a pipeline of diffusers, which makes images. Give a language model"),
    ("modules.json", "a model of sentence-transformers, which makes vectors of texts. Give a language model"),
    ("*.gguf", "GGUF, llama.cpp's format. Give the Hugging Face folder that it was converted from"),
    ("consolidated*.pth", "in Meta's own format. Give the repository in transformers' (Llama-2-7b-hf, not Llama-2-7b)"),
    ("consolidated*.safetensors", "in Mistral's own format. Give a folder with config.json and model.safetensors"),
    ("*.npz", "weights of NumPy or of the first MLX. Give the Hugging Face folder that they were converted from"),
    ("*.onnx", "ONNX, which cannot be trained. Give the Hugging Face folder that it was exported from"),
    ("snapshots/*/config.json", "a repository of the hub's cache. Give the folder in snapshots"),
    *((pattern, _PICKLE) for pattern in _PICKLES),
    ("*.safetensors", f"weights without their {CONFIG}. Put it beside them, from where they come from"),
)  # fmt: skip
_WITHOUT_WEIGHTS: tuple[tuple[str, str], ...] = (
    *((pattern, _PICKLE) for pattern in _PICKLES),
    ("*.gguf", "GGUF, llama.cpp's format. Give the Hugging Face folder that it was converted from"),
    ("*.h5", "TensorFlow's format. Load the model once in transformers and save it again"),
    ("*.msgpack", "Flax's format. Load the model once in transformers and save it again"),
    ("*.onnx", "ONNX, which cannot be trained. Give the Hugging Face folder that it was exported from"),
    ("*.npz", "weights of NumPy or of the first MLX. Give the Hugging Face folder that they were converted from"),
)

_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
"""What a trainer leaves beside the weights."""


def refuse_foreign(folder: Path) -> None:
    """
    Raises:
        UserError: if the folder is one of the known kinds that have no model as transformers writes it.
    """
    pipeline = "model_index.json", "modules.json"  # these may have a config.json besides, of another kind of model
    for pattern, what in _WITHOUT_CONFIG:
        if (pattern in pipeline or not (folder / CONFIG).is_file()) and (found := _said(_below(folder, pattern))):
            raise UserError(f"{folder}: {found} is {what}.")


def foreign_weights(folder: Place) -> str | None:
    """What a folder without safetensors has in their place, and what to do; None where it has nothing of the kind."""
    names = names_in(folder)
    for pattern, what in _WITHOUT_WEIGHTS:
        if found := _said(fnmatch.filter(names, pattern)):
            return f"{folder}: no safetensors; {found} is {what}."
    return None


def _below(folder: Path, pattern: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern))]


def _said(found: list[str]) -> str | None:
    names = [name for name in found if name.rpartition("/")[2] not in _NO_WEIGHTS]
    if not names:
        return None
    return names[0] if len(names) == 1 else f"each of {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
