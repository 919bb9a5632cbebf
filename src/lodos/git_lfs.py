"""Pointers of Git LFS, which stand where a large file was not downloaded.

    version https://git-lfs.github.com/spec/v1
    oid sha256:4f2c1d0a...
    size 269060552

A repository that is cloned without git-lfs has them in place of weights, tokenizers and data: a text of three lines
under the name of the file. Whoever cannot read a file asks here first, since "not valid JSON" or "header too large"
lead nowhere. The format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
"""

import re
from pathlib import Path

from lodos.errors import UserError

HEAD_BYTES = 1024
"""A pointer is shorter than that."""

_POINTER = re.compile(rb"(?:\xef\xbb\xbf)?version https?://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/")
_SIZE = re.compile(rb"^size (\d+)\s*$", re.MULTILINE)


def pointer_problem(head: bytes) -> str | None:
    """What to say of a file that begins with `head` when that is a pointer; None when it is not."""
    if not _POINTER.match(head):
        return None
    size = _SIZE.search(head)
    bytes_away = f" ({int(size[1]):,} bytes)" if size else ""
    return (
        f"a pointer of Git LFS, and not the file{bytes_away}, which was not downloaded. Install git-lfs and run "
        "`git lfs pull` in the repository, or download the file by itself"
    )


def refuse_pointers(*files: Path) -> None:
    """
    Raises:
        UserError: that names every one of the files that is a pointer.
    """
    problems = []
    for file in files:
        try:
            with file.open("rb") as stream:
                head = stream.read(HEAD_BYTES)
        except OSError:  # that there is no such file, or that it cannot be read, is for its reader to say
            continue
        if problem := pointer_problem(head):
            problems.append(f"{file}: {problem}.")
    if problems:
        raise UserError("\n".join(problems))
