"""Reads the file of an offline W&B run, for tests."""

import json
import struct
import time
from pathlib import Path
from typing import Any

_BLOCK, _FILE_HEADER, _HEADER = 32768, 7, 7
_WHOLE, _LAST = 1, 4


def records(file: Path, *, seconds: float = 60.0) -> list[Any]:
    """The records of a finished run, as W&B's own protobuf messages.

    W&B's process goes on writing after the run has been finished, until a record that says so.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = _records(file.read_bytes())
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, f"{file}: its end has not been written"
        time.sleep(0.05)


def history(file: Path) -> list[dict[str, Any]]:
    """What was logged, a mapping for each step, which is under `_step`."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(file)
        if record.HasField("history")
    ]


def _records(data: bytes) -> list[Any]:
    """A log in LevelDB's format, in blocks, of protobuf messages that may be in several parts."""
    from wandb.proto import wandb_internal_pb2

    found, at, parts = [], _FILE_HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # too short for a header, so the block ends in zeros
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        at += _HEADER
        if at + length > len(data):  # not all there yet
            break
        parts += data[at : at + length]
        at += length
        if kind in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found
