"""What is downloaded of a model, by the filter that huggingface_hub itself applies; the download is played."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from lodos.formats.hub import model_folder

NEEDED = ["config.json", "tokenizer.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "LICENSE"]
WEIGHTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
OTHERS = ["image.png", "pytorch_model.bin", "modeling_some.py", "original/params.json", "onnx/model.safetensors"]


@pytest.mark.parametrize(("weights", "expected"), [(True, [*NEEDED, *WEIGHTS]), (False, NEEDED)])
def test_weights_are_downloaded_when_they_are_needed_and_nothing_else_ever(
    weights: bool, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def snapshot_download(name: str, *, revision: str | None, **patterns: Any) -> str:
        taken.extend(filter_repo_objects([*NEEDED, *WEIGHTS, *OTHERS], **patterns))
        return str(tmp_path / name / str(revision))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_folder("some/model", "v2", weights=weights) == tmp_path / "some/model/v2"
    assert taken == expected
