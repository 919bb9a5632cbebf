"""`lodos import`: an adapter of MLX or llama.cpp as the folder that PEFT and lodos read."""

import dataclasses
import shlex
import sys
from pathlib import Path

from lodos.commands.output_folder import output_folder, refuse_to_lose
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.formats.factors import Factors, with_factors_of
from lodos.formats.gguf_lora import read_gguf_lora
from lodos.formats.gguf_model import architecture_of
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.mlx import is_mlx_adapter, read_mlx
from lodos.formats.peft import WEIGHTS_NAME, save_peft_pretrained
from lodos.lora.transform import adaptable_names
from lodos.places.place import is_remote, place_of
from lodos.prompting.description import read_prompting


@dataclasses.dataclass(kw_only=True)
class ImportArgs:
    """Read an adapter of MLX or llama.cpp and write it as PEFT does."""

    adapter: str = dataclasses.field(metadata={"example": "adapters"})
    """What mlx-lm trained (a folder with adapters.safetensors), or a GGUF file of a LoRA adapter."""
    output: str = dataclasses.field(metadata={"example": "imported"})
    """Folder to write to."""
    model: str | None = None
    """The base model: a folder or a hub name; needed for GGUF, which names none. By default the one that MLX's config
    names."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


def main(argv: list[str]) -> int:
    """Imports as the arguments say."""
    import_adapter(parse_config(ImportArgs, argv, prog="lodos import", description=ImportArgs.__doc__ or ""))
    return 0


def import_adapter(args: ImportArgs) -> None:
    """Writes the adapter as a PEFT folder, read back and compared.

    Raises:
        UserError: when it is none of the two, does not fit the base model, or nothing says what that is.
    """
    output = output_folder(args.output, overwrite=args.overwrite, made_of=WEIGHTS_NAME)
    source = place_of(args.adapter)
    if is_remote(source) or not isinstance(source, Path):
        raise UserError(f"adapter: {source} is on a store. Copy it here first.")
    named, dropout = None, 0.0
    factors: dict[str, Factors] = {}
    if is_mlx_adapter(source):
        factors, named, dropout = read_mlx(source)
    elif not source.is_file():
        raise UserError(f"adapter: {source} is neither a folder with MLX's adapters.safetensors nor a GGUF file.")
    base = args.model or named
    if base is None:
        raise UserError(f"model: not given, and {source} names none. Give the base model: --model FOLDER.")
    converter = HFCheckpointConverter.from_hf(base)
    structure = converter.checked_structure()
    if not factors:
        factors = read_gguf_lora(source, architecture_of(converter), adaptable_names(structure))
    folder = source if source.is_dir() else source.parent
    refuse_to_lose({"adapter": folder, "base model": converter.folder}, output)
    model, lora = with_factors_of(structure, factors, base=converter.reader(), dropout=dropout)
    save_peft_pretrained(model, lora, base, output, base_folder=converter.folder, prompting=read_prompting(folder))
    print(f"Adapter: {output}", file=sys.stderr)
    print(f"Next: lodos generate --adapter {shlex.quote(str(output))} --prompt '...'", file=sys.stderr)
