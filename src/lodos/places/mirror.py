"""Files that grow here, such as a log, and go to a store whole every few seconds and at the end.

A store cannot append. Sending is a thread's, so that no step waits for it; one that fails is said once and tried again,
for every number is here.
"""

import logging
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lodos.places.objects import write_object

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
CLOSE_SECONDS = 120.0
"""How long the end waits for the last sending."""


class Mirror:
    """Keeps what is at `place` like the files of the local folder `folder`.

    Args:
        temporary: the folder is removed when all of it was sent.
    """

    def __init__(self, folder: Path, place: "UPath", *, temporary: bool = False):
        self.folder = folder
        self._place = place
        self._temporary = temporary
        self._sent: dict[str, tuple[int, int]] = {}
        self._closing = threading.Event()
        self._failed = False
        self._is_current = False
        self._thread = threading.Thread(target=self._work, name="lodos-mirror", daemon=True)
        self._thread.start()

    @classmethod
    def of_file(cls, place: "UPath", text: str) -> "Mirror":
        """That of one file, which holds `text` now; it has its name in `folder`."""
        folder = Path(tempfile.mkdtemp(prefix="lodos-log-"))
        (folder / place.name).write_text(text, encoding="utf-8")
        return cls(folder, place.parent, temporary=True)

    def close(self) -> None:
        """Sends what is new and returns, after `CLOSE_SECONDS` at the latest; says where what was not sent is."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if not self._is_current:
            logger.warning("%s: could not be sent in time. All of it is in %s.", self._place, self.folder)
        elif self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _work(self) -> None:
        while not self._closing.wait(EVERY_SECONDS):
            self._send()
        self._is_current = self._send()

    def _send(self) -> bool:
        try:
            for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                name, stat = file.relative_to(self.folder).as_posix(), file.stat()
                if self._sent.get(name) != (stat.st_size, stat.st_mtime_ns):
                    write_object(self._place / name, file.read_bytes())
                    self._sent[name] = (stat.st_size, stat.st_mtime_ns)
        except Exception as error:
            if not self._failed:
                logger.warning(
                    "%s: not sent: %s. It is tried again; all of it is in %s.", self._place, error, self.folder
                )
            self._failed = True
            return False
        return True
