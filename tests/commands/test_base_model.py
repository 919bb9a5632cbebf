"""The base of an adapter is the model, and the revision of it, that the adapter names; or the one that is given."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lodos.commands.base_model import base_converter
from lodos.errors import UserError
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


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("/no/such/base", "/no/such/base: there is no such folder."),
        ("./models/base", "A relative path counts from here"),
        ("models/base", "there is no such folder here, and "),
        ("{empty}", "no model: it has no config.json"),
        ("{no_weights}", "has no weights; there are"),
    ],
)
def test_a_base_that_is_not_where_the_adapter_says_is_traced_to_the_adapter(
    named: str, said: str, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    folder, _ = make_model()
    no_weights = shutil.copytree(folder, tmp_path / "no weights", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "empty").mkdir()
    named = named.format(empty=tmp_path / "empty", no_weights=no_weights)
    adapter = tmp_path / "the adapter"
    adapter.mkdir()
    fields = to_peft(LoraConfig(), ["q_proj"], named)
    (adapter / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UserError) as error:
        base_converter("me/adapter", adapter, None)
    text = str(error.value)
    assert said in text
    assert f"{named} is that of the base model in {adapter / 'adapter_config.json'}" in text
    assert f"write --model FOLDER beside --adapter '{adapter}'" in text
    assert base_converter("me/adapter", adapter, str(folder)).folder == folder


def test_a_model_given_by_the_user_is_not_blamed_on_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(to_peft(LoraConfig(), ["q_proj"], "some/model")))
    with pytest.raises(UserError) as error:
        base_converter("me/adapter", tmp_path, "/no/such/base")
    assert "adapter_config.json" not in str(error.value)
