"""The examples as their users have them: scripts in a folder, run beside each other."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_example() -> Script:
    """`run_example("alpaca.py", "--flag", "value", cwd=folder)`: the script in a process of its own."""

    def run(
        name: str, *arguments: str | Path, cwd: Path, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
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
