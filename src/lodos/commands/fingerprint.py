"""What decides the numbers of a run, by which one that is resumed is known to be the same run."""

import dataclasses
import hashlib
from typing import Any

from lodos.config import FineTuneArgs
from lodos.config_parsing import encode_config
from lodos.data.config import DataArgs
from lodos.data.mixture import Selection
from lodos.data.prepare import digests
from lodos.formats.hf import HFCheckpointConverter

# Places, trackers, the schedule of saving and the shape of the mesh change no number, and a run may be made longer.
_SETTINGS = ("z_loss", "packing")
_SECTIONS = ("lora", "optimizer")
_OF_TRAINER = ("mp", "seed", "train_batch_size")
_NOT_OF_TRAINING_ROWS = ("validation", "data_cache_dir", "max_dropped")


def run_fingerprint(
    config: FineTuneArgs, converter: HFCheckpointConverter, examples: Selection | None
) -> dict[str, Any]:
    """The settings that decide, by name, and what the base model and the training examples are.

    Args:
        examples: of an epoch; None where rows are streamed, for which the settings of the data have to stand.
    """
    settings = encode_config(config)
    fingerprint = {name: settings[name] for name in _SETTINGS}
    # Without seq_len, max_tune_length decides how rows are packed, also where it leaves every row as it is.
    fingerprint["positions"] = config.positions if config.packing else None
    for section, names in [
        *((section, None) for section in _SECTIONS if section in settings),
        ("trainer", _OF_TRAINER),
    ]:
        values = settings[section]
        fingerprint |= {f"{section}.{name}": values[name] for name in names or values}
    if examples is None:
        of_rows = {field.name for field in dataclasses.fields(DataArgs)}.difference(_NOT_OF_TRAINING_ROWS)
        fingerprint |= {name: settings[name] for name in sorted(of_rows)}
        fingerprint["max_tune_length"] = config.longest_row  # given or not
    else:
        if config.template_date is not None:
            fingerprint["template_date"] = config.template_date
        fingerprint["training examples"] = f"{len(examples)} ({_hex(digests(examples).tobytes())})"
    fingerprint["base model"] = _of_weights(converter)
    return fingerprint


def _of_weights(converter: HFCheckpointConverter) -> str:
    """A digest of the first row of every tensor: no training leaves all of them as they are."""
    reader = converter.reader()
    rows = {name: reader.read(name, (slice(0, 1),)) for name in sorted(reader.shapes)}
    return _hex(
        b"".join(f"{name} {reader.shapes[name]} {row.dtype} ".encode() + row.tobytes() for name, row in rows.items())
    )


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
