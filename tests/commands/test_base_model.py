"""The base of an adapter is the model, and the revision of it, that the adapter names; or the one that is given."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lodos.commands.base_model import base_converter
from lodos.formats.peft_config import to_peft
from lodos.lora.config import LoraConfig


@pytest.mark.parametrize(("model", "expected"), [(None, ("some/model", "v2")), ("other/model", ("other/model", None))])
def test_the_base_is_read_at_the_revision_that_the_adapter_names(
    model: str | None,
    expected: tuple[str, str | None],
    make_model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _ = make_model()
    fields = {**to_peft(LoraConfig(), ["q_proj"], "some/model"), "revision": "v2"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")
    asked = []

    def snapshot_download(name: str, *, revision: str | None, **_: Any) -> str:
        asked.append((name, revision))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    converter = base_converter("me/adapter", tmp_path, model)
    assert asked == [expected]
    assert (converter.model_name_or_path, converter.revision) == expected
