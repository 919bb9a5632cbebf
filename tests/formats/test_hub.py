"""What is downloaded of a model, with the hub played by a function."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lodos.formats.hub import model_folder

FILES = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "chat_template.jinja", "image.png"]


@pytest.mark.parametrize(("weights", "expected"), [(True, FILES[:4]), (False, [FILES[0], *FILES[2:4]])])
def test_weights_are_downloaded_when_they_are_needed(
    weights: bool, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        taken.extend(file for file in FILES if any(fnmatch(file, pattern) for pattern in allow_patterns))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_folder("some/model", weights=weights) == tmp_path / "some/model"
    assert taken == expected
