"""What is downloaded of a model, by the filter that huggingface_hub itself applies; the download is played."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from lodos.errors import UserError
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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("GatedRepoError", "is gated .*Accept its licence at https://huggingface.co/some/model and set HF_TOKEN"),
        ("RepositoryNotFoundError", "knows no such model.*Look at the spelling"),
        ("RevisionNotFoundError", "without that revision"),
        ("LocalEntryNotFoundError", "not in the hub's cache.*HF_HUB_OFFLINE.*Download it with a connection"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(error: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub.errors as errors

    kind = getattr(errors, error)
    response = httpx.Response(403, request=httpx.Request("GET", "https://hub"))
    raised = kind("no") if error == "LocalEntryNotFoundError" else kind("no", response=response)

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=said):
        model_folder("some/model")


def test_without_a_connection_there_is_what_was_downloaded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import IncompleteSnapshotError

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise IncompleteSnapshotError("not whole", str(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_folder("some/model") == tmp_path
