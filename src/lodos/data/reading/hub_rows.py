"""Rows of a data set on the Hugging Face hub, through `datasets`.

The revision is looked up first and its commit is what is read, so that the rows are those that the fingerprint speaks
of, whatever is pushed in between. Offline (HF_HUB_OFFLINE=1) it is the newest copy in the cache of `datasets`. Code in
a repository is never run; `datasets` has no way to since version 4.

Knows nothing of what the columns mean.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any, NoReturn

from lodos.data.reading.rows import Row
from lodos.errors import UserError

logger = logging.getLogger(__name__)

HUB_TIMEOUT_SECONDS = 30


def hub_rows(
    repo: str, *, name: str | None = None, split: str | None = None, revision: str | None = None, stream: bool = False
) -> Iterator[Row]:
    """Reads one split in its order; the number of a row is its place there, from 1.

    Args:
        repo: `owner/name`, or a folder that `datasets.load_dataset` takes.
        name: which configuration of the data set, where it has several.
        split: as in `load_dataset`, slices (`train[:1000]`) included; None takes the only split, or `train`.
        stream: read from the hub as it goes, rather than from a copy in the cache of `datasets`, which needs twice the
            data set's size on disk.

    Raises:
        UserError: when the hub, the data set, the configuration or the split cannot be had, with what the hub says.
    """
    import datasets

    commit = _commit(repo, revision)
    try:
        split = split or _only_split(datasets.get_dataset_split_names(repo, name, revision=commit), repo)
        rows: Any = datasets.load_dataset(repo, name, split=split, revision=commit, streaming=stream)
        iterator = iter(rows)
    except UserError:
        raise
    except Exception as error:  # of datasets, of the hub and of its HTTP client
        _refuse(repo, error)
    label = f"{repo} ({', '.join(filter(None, (name, split)))})"
    number = 0
    while True:
        try:
            fields = next(iterator)
        except StopIteration:
            break
        except Exception as error:
            _refuse(f"{label}, after row {number}", error)
        number += 1
        yield Row(label, number, dict(fields))
    if not number:
        raise UserError(f"{label}: the split has no rows.")


def hub_fingerprint(
    repo: str, *, name: str | None = None, split: str | None = None, revision: str | None = None
) -> str:
    """A hash that changes when the rows may have: of the repository, its commit, the split and the configuration.

    Raises:
        UserError: when neither the hub nor a copy in the cache can be had.
    """
    commit = _commit(repo, revision)
    version = [commit] if commit is not None else _cached_files(repo, name, split)
    return hashlib.sha256(json.dumps([repo, version, name, split]).encode()).hexdigest()


@functools.cache  # one commit for the whole run
def _commit(repo: str, revision: str | None) -> str | None:
    """The commit of a revision; None when HF_HUB_OFFLINE asks for the copy in the cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(repo, revision=revision, timeout=HUB_TIMEOUT_SECONDS).sha
    except OfflineModeIsEnabled:
        if revision is None:
            return None
        raise UserError(
            f"{repo}: offline, and which revision the copy in the cache has cannot be told. Leave out {revision!r} or "
            "unset HF_HUB_OFFLINE."
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:  # the hub has answered
        _refuse(repo, error)
    except Exception as error:  # no network: the exceptions are those of the HTTP client
        _refuse(repo, error, "HF_HUB_OFFLINE=1 takes the copy in the cache of `datasets`, if there is one.")


def _cached_files(repo: str, name: str | None, split: str | None) -> list[str]:
    """The files of the newest copy in the cache, whose folder is named by the commit."""
    import datasets

    try:
        names = [split] if split else datasets.get_dataset_split_names(repo, name)
        return sorted(
            file["filename"] for one in names for file in datasets.load_dataset(repo, name, split=one).cache_files
        )
    except Exception as error:
        _refuse(repo, error)


def _only_split(names: list[str], repo: str) -> str:
    if len(names) == 1:
        return str(names[0])
    if "train" not in names:
        raise UserError(f"{repo}: which of its splits is meant: {', '.join(map(str, names))}? Name one as `split`.")
    logger.info("%s: took the split train of %s", repo, ", ".join(map(str, names)))
    return "train"


def _refuse(
    what: str, error: Exception, hint: str = "A gated data set wants its terms accepted, and HF_TOKEN."
) -> NoReturn:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:3]).rstrip(".") or type(error).__name__
    raise UserError(
        f"{what}: not a file or folder here, and the hub's data set cannot be read: {said}. {hint}"
    ) from error
