"""`lodos export`: an adapter, or the model that it makes of its base, in the files of other programs."""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lodos.commands.base_model import base_converter
from lodos.commands.merge import MergeArgs, merge
from lodos.commands.output_folder import output_folder, refuse_to_lose
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.files import write_compared
from lodos.formats.factors import factors_of
from lodos.formats.folder_contents import adapter_folder
from lodos.formats.gguf_file import GgufType
from lodos.formats.gguf_lora import save_gguf_lora
from lodos.formats.gguf_model import architecture_of, save_gguf
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.mlx import save_mlx
from lodos.formats.ollama import modelfile
from lodos.formats.peft import load_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.models.decoder import LmHeadModel
from lodos.places.place import Place
from lodos.places.saving import saved_whole
from lodos.prompting.description import Prompting, read_prompting, write_prompting

Target = Literal["gguf", "gguf-lora", "mlx", "merged"]

MODEL_FILE, LORA_FILE, MODELFILE = "model-{type}.gguf", "adapter-{type}.gguf", "Modelfile"

_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_MADE_OF = {"gguf": "*.gguf", "gguf-lora": "*.gguf", "mlx": "adapters.safetensors", "merged": "config.json"}


@dataclasses.dataclass(kw_only=True)
class ExportArgs:
    """Write an adapter, or the model that it makes of its base, for other programs."""

    adapter: str = dataclasses.field(metadata={"example": "runs/<id>/peft/best"})
    """The adapter: a PEFT folder or a hub name."""
    to: Target = dataclasses.field(metadata={"example": "gguf"})
    """gguf: base and adapter as one file for llama.cpp, Ollama, LM Studio. gguf-lora: the adapter alone, for
    llama.cpp's --lora and Ollama's ADAPTER. mlx: the adapter for mlx-lm. merged: as lodos merge, for transformers."""
    output: str = dataclasses.field(metadata={"example": "exported"})
    """Folder to write to."""
    model: str | None = None
    """The base model: a folder or a hub name; by default the one that the adapter names."""
    type: GgufType | None = None
    """Of the numbers: f16 by default in gguf, f32 in gguf-lora. Below 8 bits, the embedding and the output head have
    8. merged takes f32, f16 and bf16, by default the base's."""
    overwrite: bool = False
    """Replace the output folder if it exists."""

    def __post_init__(self) -> None:
        if self.to == "mlx" and self.type not in (None, "f32"):
            raise UserError(
                f"type: {self.type}; mlx adapters are written in float32, as they were trained. Leave it out."
            )
        if self.to == "merged" and self.type is not None and self.type not in _DTYPES:
            raise UserError(f"type: {self.type} is one of GGUF. For merged give {', '.join(_DTYPES)}.")


@dataclasses.dataclass(frozen=True)
class _Exported:
    """What is written from."""

    adapter: Path
    converter: HFCheckpointConverter
    model: LmHeadModel
    """Of shapes, with the adapter's arrays."""
    lora: LoraConfig
    prompting: Prompting | None

    @property
    def name(self) -> str:
        return self.converter.model_name_or_path.rstrip("/").rsplit("/", 1)[-1]


def main(argv: list[str]) -> int:
    """Exports as the arguments say."""
    export(parse_config(ExportArgs, argv, prog="lodos export", description=ExportArgs.__doc__ or ""))
    return 0


def export(args: ExportArgs) -> None:
    """Writes the folder `args.output`, each file read back and compared.

    The base is never loaded: one tensor is read, summed with what the adapter adds in float32, and written.

    Raises:
        UserError: before any weight is read if something is missing, in the way, or not to be had in that form.
    """
    if args.to == "merged":
        dtype = None if args.type is None else _DTYPES[args.type]
        merge(MergeArgs(args.adapter, args.output, args.model, dtype=dtype, overwrite=args.overwrite))  # pyright: ignore[reportArgumentType]
        return
    output = output_folder(args.output, overwrite=args.overwrite, made_of=_MADE_OF[args.to])
    adapter = adapter_folder(args.adapter)
    converter = base_converter(args.adapter, adapter, args.model)
    refuse_to_lose({"adapter": adapter, "base model": converter.folder}, output)
    if args.to != "mlx":
        architecture_of(converter)
    model, lora = load_peft_pretrained(converter.checked_structure(), args.adapter, base=converter.reader())
    exported = _Exported(adapter, converter, model, lora, read_prompting(adapter))
    writers = {"gguf": _write_gguf, "gguf-lora": _write_gguf_lora, "mlx": _write_mlx}
    with saved_whole(output) as folder:
        remarks, then = writers[args.to](exported, folder, args)
    for remark in remarks:
        print(f"remark: {remark}", file=sys.stderr)
    print(f"Written: {output}", file=sys.stderr)
    for index, command in enumerate(then(output)):
        print(f"{'      ' if index else 'Next: '}{command}", file=sys.stderr)


Then = Callable[[Place], list[str]]
"""What a user may do next with the folder."""


def _write_gguf(exported: _Exported, folder: Path, args: ExportArgs) -> tuple[list[str], Then]:
    wanted: GgufType = args.type or "f16"
    file = folder / MODEL_FILE.format(type=wanted)
    remarks = save_gguf(
        exported.converter,
        exported.model,
        file,
        wanted,
        name=exported.name,
        prompting=exported.prompting,
        progress=True,
    )
    remarks += _write_modelfile(exported, folder, f"./{file.name}")
    return remarks, lambda output: [
        shlex.join(["llama-cli", "-m", str(output / file.name), "-p", "..."]),
        shlex.join(["ollama", "create", "my-model", "-f", str(output / MODELFILE)]),
    ]


def _write_gguf_lora(exported: _Exported, folder: Path, args: ExportArgs) -> tuple[list[str], Then]:
    wanted: GgufType = args.type or "f32"
    file = folder / LORA_FILE.format(type=wanted)
    remarks = save_gguf_lora(
        factors_of(exported.model, exported.lora),
        architecture_of(exported.converter),
        file,
        wanted,
        name=exported.name,
        progress=True,
    )
    remarks += _write_modelfile(exported, folder, exported.converter.model_name_or_path, adapter=f"./{file.name}")
    return remarks, lambda output: [
        shlex.join(["llama-cli", "-m", "BASE.gguf", "--lora", str(output / file.name), "-p", "..."])
    ]


def _write_mlx(exported: _Exported, folder: Path, args: ExportArgs) -> tuple[list[str], Then]:
    base = exported.converter.model_name_or_path
    remarks = save_mlx(
        factors_of(exported.model, exported.lora),
        exported.lora,
        folder,
        model=base,
        num_layers=exported.converter.config.num_hidden_layers,
    )
    if exported.prompting is not None:
        write_prompting(exported.prompting, folder)
    command = ["mlx_lm.generate", "--model", base, "--adapter-path"]
    return remarks, lambda output: [shlex.join([*command, str(output), "--prompt", "..."])]


def _write_modelfile(exported: _Exported, folder: Path, weights: str, *, adapter: str | None = None) -> list[str]:
    text, remarks = modelfile(weights, exported.converter.tokenizer, exported.prompting, adapter=adapter)
    write_compared(folder / MODELFILE, text)
    if exported.prompting is not None:
        write_prompting(exported.prompting, folder)
    return remarks
