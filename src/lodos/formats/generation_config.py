"""generation_config.json: what ends an answer, for whoever generates with transformers or a server."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lodos.files import write_json
from lodos.json_files import TOKEN_IDS, read_object
from lodos.models.config_fields import FIELDS

FILE = "generation_config.json"


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The settings of a folder; empty where it has none."""
    path = folder / FILE
    return read_object(path, {"eos_token_id": TOKEN_IDS}) if path.exists() else {}


def write_generation_config(
    base_folder: Path, folder: Path, ends: Iterable[int], *, others: Mapping[str, Any] | None = None
) -> None:
    """Writes the base model's settings, in which `ends` end an answer as well.

    Args:
        ends: token ids.
        others: settings in place of the base model's.
    """
    config = {**read_generation_config(base_folder), **(others or {})}
    declared = config.get("eos_token_id")
    if declared is None and (base_folder / "config.json").exists():
        declared = read_object(base_folder / "config.json", FIELDS).get("eos_token_id")
    eos_ids = declared if isinstance(declared, list) else [] if declared is None else [declared]
    eos_ids = list(dict.fromkeys([*eos_ids, *ends]))
    if eos_ids:
        config["eos_token_id"] = eos_ids[0] if len(eos_ids) == 1 else eos_ids
    write_json(folder / FILE, config)
