"""Uploads to the hub while training goes on.

One thread sends one folder at a time, in the order in which they were given. What waits is the newest folder of each
repository and no other: a later folder replaces the files of an earlier one, so when uploading is slower than saving,
the earlier one is passed over, and uploads never pile up. Nothing that goes wrong here stops training.

The thread is a daemon and waited for explicitly, because Python would otherwise wait for it after a second Ctrl-C too.
"""

import atexit
import dataclasses
import logging
import threading
from pathlib import Path
from types import TracebackType

from lodos.errors import Stopped, UserError
from lodos.formats.hub_repo import HubRepo, reason
from lodos.places.fetching import fetched_folder
from lodos.places.place import Place, is_remote

logger = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""How long the hub has to answer before training begins."""
_REFUSALS = (400, 401, 402, 403, 404, 409)


@dataclasses.dataclass(frozen=True)
class _Job:
    repo: HubRepo
    folder: Place
    message: str

    @property
    def by_hand(self) -> str:
        return f"hf upload {self.repo.repo} {self.folder}"


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
        self._thread: threading.Thread | None = None

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
        thread.start()
        thread.join(CHECK_SECONDS)
        error = TimeoutError(f"no answer within {CHECK_SECONDS:g} s") if thread.is_alive() else None
        error = errors[0] if errors else error
        if isinstance(error, UserError):
            raise UserError(f"{setting}: {error}") from None
        if isinstance(error, HfHubHTTPError) and error.response.status_code in _REFUSALS:
            raise UserError(
                f"{setting}: {repo}: the hub refuses: {reason(error)}. The token needs write access to this repository."
            ) from None
        if error is not None:
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
            return any(job is not None and job.folder == folder for job in (self._current, *self._waiting.values()))

    def wait(self, *, seconds: float | None = None) -> None:
        """Returns when everything is uploaded, or has failed. Ctrl-C leaves the rest undone, and says so.

        Args:
            seconds: after which the rest is left undone too.

        Raises:
            Stopped: after SIGTERM, where that is an exception; the rest is left undone.
        """
        try:
            with self._changed:
                if self._current or self._waiting:
                    logger.info("Waiting for uploads to the hub. Ctrl-C leaves without them.")
                if not self._changed.wait_for(lambda: not (self._current or self._waiting), timeout=seconds):
                    self.abandon()
        except KeyboardInterrupt:
            self.abandon()
        except Stopped:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Gives up what is not uploaded yet, with the commands that upload it by hand."""
        with self._changed:
            left = [job for job in (self._current, *self._waiting.values()) if job is not None]
            self._waiting.clear()
            self._current = None
        for job in left:
            logger.warning("Not uploaded: %s. By hand: %s", job.folder, job.by_hand)

    def _repo(self, repo: str) -> HubRepo:
        return self._repos.setdefault(repo, HubRepo(repo, private=self._private, endpoint=self._endpoint))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = self._current = self._waiting.pop(next(iter(self._waiting)))
            try:
                logger.info("Uploaded %s: %s", job.folder, job.repo.commit(_local(job.folder), job.message))
            except Exception as error:
                logger.warning(
                    "%s: not uploaded: %s. Training goes on; the next upload tries again. By hand: %s",
                    job.folder,
                    reason(error),
                    job.by_hand,
                )
            with self._changed:
                self._current = None
                self._changed.notify_all()


def _local(folder: Place) -> Path:
    return fetched_folder(folder, strictly=True) if is_remote(folder) else folder


def _without_progress_bars() -> None:
    """Those of huggingface_hub would be drawn across the run's own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

    if not are_progress_bars_disabled():
        disable_progress_bars()
