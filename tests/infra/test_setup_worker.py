"""`infra/setup-worker.sh`: a worker has the branch as it was pushed, the first time and every time after."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "setup-worker.sh"
GIT = shutil.which("git")
AUTHOR = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

pytestmark = pytest.mark.skipif(GIT is None, reason="needs git")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, env={**os.environ, **AUTHOR})


def push(repository: Path, text: str) -> None:
    (repository / "text").write_text(text, encoding="utf-8")
    git(repository, "add", "text")
    git(repository, "commit", "--quiet", "-m", text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "mine")
    push(folder, "first")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With an environment whose Python notes what it was asked for."""
    python = tmp_path / "home" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$*" >>"$HOME/asked"\n', encoding="utf-8")
    python.chmod(0o755)
    return tmp_path / "home"


def set_up(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **environment}
    # As the babysitter has it run: the script's text, not its file.
    command = ["bash", "-c", SCRIPT.read_text(encoding="utf-8")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_worker_has_what_was_pushed_last(home: Path, repository: Path) -> None:
    for text in ("first", "second"):
        push(repository, text + ".")
        done = set_up(home, LODOS_REPO=f"file://{repository}", LODOS_BRANCH="mine")
        assert done.returncode == 0, done.stderr
        assert (home / "lodos" / "text").read_text(encoding="utf-8") == text + "."
    asked = (home / "asked").read_text(encoding="utf-8").splitlines()
    assert asked == ["-m pip install --quiet --upgrade ./lodos[tpu,gcs]"] * 2


def test_another_repository_and_other_extras(home: Path, repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(repository, other)
    push(other, "other")
    for source in (repository, other):
        done = set_up(home, LODOS_REPO=f"file://{source}", LODOS_BRANCH="mine", LODOS_EXTRAS="tpu,gcs,wandb")
        assert done.returncode == 0, done.stderr
    assert (home / "lodos" / "text").read_text(encoding="utf-8") == "other"
    assert "lodos[tpu,gcs,wandb]" in (home / "asked").read_text(encoding="utf-8")


def test_no_extras(home: Path, repository: Path) -> None:
    assert set_up(home, LODOS_REPO=f"file://{repository}", LODOS_BRANCH="mine", LODOS_EXTRAS="").returncode == 0
    assert (home / "asked").read_text(encoding="utf-8").splitlines()[-1].endswith("./lodos")


def test_a_branch_that_was_not_pushed_fails(home: Path, repository: Path) -> None:
    done = set_up(home, LODOS_REPO=f"file://{repository}", LODOS_BRANCH="only-here")
    assert done.returncode != 0
    assert "only-here" in done.stderr
    assert set_up(home).returncode != 0
