"""Uploads to the hub while training goes on.

One thread sends one folder at a time, in the order in which they were given. What waits is the newest folder of each
repository and no other: a later folder replaces the files of an earlier one, so when uploading is slower than saving,
the earlier one is passed over, and uploads never pile up. What fails for a reason that may pass is tried again, less
and less often. Nothing that goes wrong here stops training, and what was not sent is said at the end, with the command
that sends it.

A hub that does not answer is waited for `PATIENCE` seconds in all, at the start and at the end together. One that
answers has longer at the end, as long as what is left takes on a slow line.

The thread is a daemon and waited for explicitly, because Python would otherwise wait for it after a second Ctrl-C too.
"""

import atexit
import dataclasses
import logging
import threading
import time
from pathlib import Path
from types import TracebackType

from lodos.errors import Stopped, UserError
from lodos.formats.hub_repo import HubRepo, reason
from lodos.places.fetching import fetched_folder
from lodos.places.place import Place, is_remote

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that a run waits in all for a hub that does not answer."""
_CHECK_SECONDS = 6.0
"""How many of them before training begins."""
_SLOWEST = 100e3
"""Bytes a second of a line that is worth waiting for at the end."""
_RETRY_SECONDS = (1.0, 300.0)
"""Before the first other try, and at most; it doubles from try to try."""
_PROBE_SECONDS = 2.0
_REFUSALS = (400, 401, 402, 403, 404, 409, 413, 422)


@dataclasses.dataclass(frozen=True)
class _Job:
    repo: HubRepo
    folder: Place
    message: str

    @property
    def by_hand(self) -> str:
        return f"hf upload {self.repo.repo} {self.folder}"

    @property
    def size(self) -> int:
        """Bytes; of a folder on a store nobody asks."""
        if is_remote(self.folder):
            return 0
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class Uploads:
    """Folders on their way to the hub; a context manager that waits for them, except after Ctrl-C or SIGTERM.

    What is still under way when Python exits is waited for too.

    Args:
        private: whether repositories are made private; if so, public ones are refused.
        endpoint: address of the hub; by default that of `huggingface_hub`, which reads HF_ENDPOINT.
    """

    def __init__(self, *, private: bool = True, endpoint: str | None = None):
        self._private = private
        self._endpoint = endpoint
        self._repos: dict[str, HubRepo] = {}
        self._changed = threading.Condition()
        self._waiting: dict[str, _Job] = {}
        self._current: _Job | None = None
        self._refused: dict[str, _Job] = {}
        """By repository what the hub would not take, and nothing newer has replaced there."""
        self._thread: threading.Thread | None = None
        self._patience = PATIENCE
        self._is_failing = False
        self._hurry = threading.Event()
        """Set when somebody waits."""

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, (KeyboardInterrupt, Stopped)):
            self.abandon()
        else:
            self.wait()

    def check(self, setting: str, repo: str) -> None:
        """Sees that the repository can be written to, and makes it if it is not there.

        A hub that cannot be reached is a warning: it may be there by the time of the first upload.

        Args:
            setting: that names the repository, for the error.

        Raises:
            UserError: when there is no token, or the hub refuses.
        """
        from huggingface_hub import get_token
        from huggingface_hub.errors import HfHubHTTPError

        if get_token() is None:
            raise UserError(
                f"{setting}: {repo}: there is no token to upload with. Set HF_TOKEN, or log in with `hf auth login`."
            )
        errors: list[Exception] = []

        def make() -> None:
            try:
                self._repo(repo).make()
            except Exception as error:
                errors.append(error)

        # huggingface_hub sets no time limit of its own.
        thread = threading.Thread(target=make, name="lodos-upload-check", daemon=True)
        began = time.monotonic()
        seconds = max(0.0, self._patience - (PATIENCE - _CHECK_SECONDS))  # of several repositories together
        thread.start()
        thread.join(seconds)
        error = TimeoutError(f"no answer within {seconds:.2g} s") if thread.is_alive() else None
        error = errors[0] if errors else error
        if isinstance(error, UserError):
            raise UserError(f"{setting}: {error}") from None
        if isinstance(error, HfHubHTTPError) and error.response.status_code in _REFUSALS:
            raise UserError(
                f"{setting}: {repo}: the hub refuses: {reason(error)}. The token needs write access to this repository."
            ) from None
        if error is not None:
            self._patience -= time.monotonic() - began
            logger.warning("%s: the hub cannot be reached now, and will be tried again: %s", repo, reason(error))

    def submit(self, repo: str, folder: Place, message: str) -> None:
        """Has a folder uploaded when its turn comes; returns at once.

        Args:
            folder: that is whole, and stays as it is.
            message: of the commit.
        """
        job = _Job(self._repo(repo), folder, message)
        with self._changed:
            passed_over = self._waiting.get(repo)
            self._waiting[repo] = job  # in the place of the older one, whose turn is next
            self._refused.pop(repo, None)
            self._hurry.clear()
            if self._thread is None:
                _without_progress_bars()
                atexit.register(self.wait)
                self._thread = threading.Thread(target=self._work, name="lodos-upload", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if passed_over is not None:
            logger.info("Not uploaded, since a newer one is there: %s", passed_over.folder)

    def needs(self, folder: Place) -> bool:
        """Whether a folder is being uploaded, or will be."""
        with self._changed:
            return any(job.folder == folder for job in self._left())

    def wait(self, *, seconds: float | None = None) -> None:
        """Returns when everything is uploaded, has failed, or is given up. Ctrl-C leaves the rest undone, and says so.

        Args:
            seconds: after which the rest is left undone too, whatever the hub does.

        Raises:
            Stopped: after SIGTERM, where that is an exception; the rest is left undone.
        """
        try:
            with self._changed:
                if self._left():
                    logger.info("Waiting for uploads to the hub. Ctrl-C leaves without them.")
            self._hurry.set()
            self._wait(time.monotonic(), seconds)
            self.abandon()
        except KeyboardInterrupt:
            self.abandon()
        except Stopped:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Gives up what is not uploaded yet, with the commands that upload it by hand."""
        with self._changed:
            left = [*self._left(), *self._refused.values()]
            self._waiting.clear()
            self._refused.clear()
            self._current = None
        for job in left:
            logger.warning("Not uploaded: %s. By hand: %s", job.folder, job.by_hand)

    def _left(self) -> list[_Job]:
        return [job for job in (self._current, *self._waiting.values()) if job is not None]

    def _wait(self, began: float, seconds: float | None) -> None:
        """Returns when nothing is left, or what is left is not worth waiting for any longer."""
        silent = 0.0
        while True:
            with self._changed:
                if not (left := self._left()):
                    return
                sending = 0.0 if self._is_failing else sum(job.size for job in left) / _SLOWEST
                passed = time.monotonic() - began
                if passed > self._patience - _PROBE_SECONDS + sending or (seconds is not None and passed > seconds):
                    return
                if silent > self._patience - 2 * _PROBE_SECONDS:
                    return
                rest = _PROBE_SECONDS if seconds is None else min(_PROBE_SECONDS, seconds - passed + 0.01)
                if self._changed.wait_for(lambda: not self._left(), timeout=max(rest, 0.0)):
                    return
            asked = time.monotonic()
            answers = left[0].repo.answers(seconds=min(_PROBE_SECONDS, self._patience))
            silent = 0.0 if answers else silent + rest + time.monotonic() - asked

    def _repo(self, repo: str) -> HubRepo:
        return self._repos.setdefault(repo, HubRepo(repo, private=self._private, endpoint=self._endpoint))

    def _work(self) -> None:
        pause = _RETRY_SECONDS[0]
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = self._current = self._waiting.pop(next(iter(self._waiting)))
            failed = self._send(job)
            with self._changed:
                given_up, self._current = self._current is not job, None
                self._is_failing = failed is not None
                repo = job.repo.repo
                if failed is None:
                    pause = _RETRY_SECONDS[0]
                elif not given_up and repo not in self._waiting:
                    (self._waiting if failed else self._refused)[repo] = job
                self._changed.notify_all()
            if failed:
                if self._hurry.wait(pause):
                    time.sleep(_RETRY_SECONDS[0])
                pause = min(2 * pause, _RETRY_SECONDS[1])

    def _send(self, job: _Job) -> bool | None:
        """None when it is there; else whether another try may help."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            logger.info("Uploaded %s: %s", job.folder, job.repo.commit(_local(job.folder), job.message))
        except Exception as error:
            refused = isinstance(error, UserError) or (
                isinstance(error, HfHubHTTPError) and error.response.status_code in _REFUSALS
            )
            logger.warning(
                "%s: not uploaded: %s. Training goes on; %s. By hand: %s",
                job.folder,
                reason(error),
                "the hub refuses it" if refused else "it is tried again",
                job.by_hand,
            )
            return not refused
        return None


def _local(folder: Place) -> Path:
    return fetched_folder(folder, strictly=True) if is_remote(folder) else folder


def _without_progress_bars() -> None:
    """Those of huggingface_hub would be drawn across the run's own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

    if not are_progress_bars_disabled():
        disable_progress_bars()
