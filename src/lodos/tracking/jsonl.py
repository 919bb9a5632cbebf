"""A run's log.jsonl: one JSON object a line, which any tool reads and which survives a kill.

    {"step": 10, "time": 1760000000.0, "train/loss": 1.5, ...}

Numbers that are not finite are written as the strings "nan", "inf" and "-inf", since JSON has no word for them
and hiding them would be worse. When a run resumes, records of steps it will do again are cut off. Lines that are no
records, as a disk may leave them, are passed over; the file as it was is kept beside it then.

On a store, the log is a file here that goes there whole every few seconds and at the end.
"""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from lodos.places.mirror import Mirror
from lodos.places.objects import read_object
from lodos.places.place import Place, is_remote
from lodos.places.saving import save_text
from lodos.places.store import NothingThereError

logger = logging.getLogger(__name__)


class JsonlTracker:
    """Appends to a log file.

    Args:
        resume_step: the step from which the run goes on; later records are removed.
    """

    def __init__(self, path: Place, *, resume_step: int = 0):
        content = _content(path)
        records, damaged = _parsed(content)
        if damaged:
            aside = path.with_name(f"{path.name}.corrupt")
            save_text(aside, content.decode("utf-8", errors="backslashreplace"))
            logger.warning("%s: %d lines are no records, and are passed over; it is kept as %s.", path, damaged, aside)
        kept = [record for record in records if record["step"] <= resume_step] if resume_step else []
        text = "".join(_line(record) for record in kept)
        save_text(path, text)
        self._mirror = Mirror.of_file(path, text) if is_remote(path) else None
        local = path if self._mirror is None else self._mirror.folder / path.name
        self._local = local
        self._file = local.open("a+b", buffering=0)
        self._size = len(text.encode())
        self._unwritten: list[bytes] = []
        """Records that the disk has refused, which are written before the next one."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._write({"step": step, "time": time.time(), **metrics})

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        self._write({"step": facts.get("resumed_from_step", 0), "time": time.time(), "summary": dict(facts)})

    @property
    def unwritten(self) -> int:
        """Records that could not be written."""
        return len(self._unwritten)

    def finish(self) -> None:
        self._write_all()
        self._file.close()
        if self._mirror is not None:
            self._mirror.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._unwritten.append(_line(record).encode())
        self._write_all()

    def _write_all(self) -> None:
        is_first = len(self._unwritten) == 1
        try:
            if os.fstat(self._file.fileno()).st_nlink == 0:
                self._begin_anew()
            while self._unwritten:
                self._append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            if is_first:
                logger.warning(
                    "%s: cannot be written: %s. Training goes on; its numbers are kept until it can.",
                    self._local,
                    error.strerror,
                )

    def _append(self, line: bytes) -> None:
        """Writes a line, or leaves the file as it was."""
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += len(line)

    def _begin_anew(self) -> None:
        """The file was removed while the run was writing it, which keeps it readable to whoever has it open."""
        content = os.pread(self._file.fileno(), self._size, 0)
        self._local.parent.mkdir(parents=True, exist_ok=True)
        file = self._local.open("a+b", buffering=0)
        self._file.close()
        self._file, self._size = file, 0
        self._append(content)


def read_records(path: Place) -> list[dict[str, Any]]:
    """The records of a log file, without a last line that a kill cut short and without lines that are no records; [] if
    there is no file."""
    return _parsed(_content(path))[0]


def _content(path: Place) -> bytes:
    try:
        return read_object(path) if is_remote(path) else path.read_bytes()
    except (FileNotFoundError, NothingThereError):
        return b""


def _parsed(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records, and how many whole lines are none."""
    lines = content.split(b"\n")[:-1]
    records = [record for line in lines if (record := _record(line)) is not None]
    return records, len(lines) - len(records)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get("step")) is int
    if not is_record or not _is_number(record.get("eval/loss", 0.0)):
        return None
    return record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or value in ("nan", "inf", "-inf")


def _line(record: Mapping[str, Any]) -> str:
    finite = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(finite, ensure_ascii=False) + "\n"
