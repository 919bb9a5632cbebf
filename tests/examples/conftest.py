"""The examples as their users have them: scripts in a folder, run beside each other."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from programs import run_here

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_example() -> Script:
    """`run_example("alpaca.py", "--flag", "value", cwd=folder)`: the script as its user starts it."""

    def run(name: str, *arguments: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = run_here(EXAMPLES / name, arguments, cwd=cwd)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def llama(make_model: Any) -> Path:
    """A tiny Llama without a PAD token, long enough for Alpaca's prompts."""
    folder, _ = make_model(max_position_embeddings=512)
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows of Alpaca, of unlike length."""
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    words = "abcdefghijklmnopqrst"
    path.write_text(
        json.dumps([{"instruction": f"Say {word}.", "output": word * (2 + i % 5)} for i, word in enumerate(words)]),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def example_modules() -> Iterator[None]:
    """The folder of the examples on the path, as it is for a script in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield
