"""A repository of the hub that a run writes to: its name, its making, one commit of one folder.

A folder is always one commit, so that whoever downloads the repository gets one step whole, never files of two.
`HfApi.upload_folder` splits large folders into several; hence `create_commit`, after the large files have gone up.
"""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.json_files import read_json
from lodos.places.place import is_remote, place_of
from lodos.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WEIGHTS = "model*.safetensors*"
"""Weights at the top of a model's folder: one file, or many and their index."""
LARGE_FILE = 1 << 20
"""Bytes above which a file is sent before the commit, one at a time."""


class PublicRepositoryError(UserError):
    """The repository is there already and everybody can read it, which was not asked for."""


def check_upload(setting: str, repo: str, base_model: str) -> None:
    """Refuses a repository that uploads must not go to; asks nobody.

    Args:
        setting: its name, for the error.
        base_model: name or folder of the model that is trained.

    Raises:
        UserError: when `repo` is not spelled owner/name, or is the base model's own repository.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    wanted = f"{setting}: {repo!r} is not a repository of the hub. Write its whole name, such as my-name/my-adapter."
    if not isinstance(repo, str) or repo.count("/") != 1:
        raise UserError(wanted)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{wanted} {error}") from None
    # The hub does not tell upper from lower case when it looks a repository up.
    if repo.lower() in {name.lower() for name in _names(base_model)}:
        raise UserError(
            f"{setting}: {repo} is the base model's own repository, which is never written to. Name another one."
        )


class HubRepo:
    """A repository that is made when it is not there.

    Args:
        repo: owner/name.
        private: whether to make it private; if so, one that exists and is public is refused.
        endpoint: address of the hub; by default that of `huggingface_hub`, which reads HF_ENDPOINT.
    """

    def __init__(self, repo: str, *, private: bool = True, endpoint: str | None = None):
        self.repo = repo
        self._private = private
        self._endpoint = endpoint
        self._is_made = False

    def make(self) -> None:
        """Makes the repository, or sees that it can be used.

        Raises:
            PublicRepositoryError: when it is there already and public, though a private one is wanted.
            OSError: of whatever kind the network and the hub give; `HfHubHTTPError` has the status.
        """
        api = self._api()
        api.create_repo(self.repo, private=self._private, exist_ok=True)
        self._is_made = True
        self._files(api)

    def commit(self, folder: Path, message: str) -> str:
        """Sends a folder as one commit, which replaces what the repository holds of the same names; its address.

        Weights that the folder does not have are deleted: left beside new ones, they might be loaded in their place.

        Raises:
            PublicRepositoryError: as `make`.
            Exception: of whatever kind the network, the hub and the disk give.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if not self._is_made:
            self.make()
        api = self._api()
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        stale = [name for name in self._files(api) if "/" not in name and fnmatch(name, WEIGHTS) and name not in files]
        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
        # Several at once would be sent by threads that Python waits for before it exits, whatever Ctrl-C says.
        for addition in additions:
            if files[addition.path_in_repo].stat().st_size >= LARGE_FILE:
                api.preupload_lfs_files(self.repo, [addition])
        operations = [*additions, *(CommitOperationDelete(name) for name in stale)]
        return api.create_commit(self.repo, operations, commit_message=message).commit_url

    def answers(self, *, seconds: float) -> bool:
        """Whether the hub answers within so many seconds, whatever it says, short of an error of its own."""
        from huggingface_hub.utils import get_session

        try:
            answer = get_session().head(f"{self._api().endpoint}/api/models/{self.repo}", timeout=seconds)
        except Exception:  # of whatever kind its client gives
            return False
        return answer.status_code < 500

    def _files(self, api: "HfApi") -> list[str]:
        info = api.model_info(self.repo)
        if self._private and info.private is False:
            raise PublicRepositoryError(
                f"{self.repo} exists and is public. hf_private: false uploads there; or make it private, or name "
                "another."
            )
        return [file.rfilename for file in info.siblings or []]

    def _api(self) -> "HfApi":
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=True, library_name="lodos", library_version=__version__)


def reason(error: BaseException) -> str:
    """What an error says, in one line, without what must not be seen: the token, and signatures in URLs."""
    from huggingface_hub import get_token

    said = [error, *([error.__cause__] if error.__cause__ else [])]
    text = " ".join(" ".join(f"{type(one).__name__}: {one}" for one in said).split())
    text = re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", r"\1", text)
    if token := get_token():
        text = text.replace(token, "<token>")
    return text[:400]


def _names(base_model: str) -> set[str]:
    """The names under which the hub may know a model: its own, or where a local folder says that it comes from."""
    names = {base_model}
    if match := re.search(r"models--([^/]+?)--([^/]+)/snapshots/", base_model):
        names.add(f"{match[1]}/{match[2]}")
    folder = place_of(base_model)
    if not is_remote(folder) and (path := folder / "config.json").is_file():
        config: Any = read_json(path)
        if isinstance(config, dict) and isinstance(origin := config.get("_name_or_path"), str):
            names.add(origin)
    return names
