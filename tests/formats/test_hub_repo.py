"""A folder as a commit, on a hub that speaks the real protocol over HTTP."""

import json
import logging
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError

from hub_server import SIGNATURE, TOKEN, HubServer, Repository
from lodos.errors import UserError
from lodos.formats import hub_repo
from lodos.formats.hub_repo import HubRepo, PublicRepositoryError, check_upload, reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "step-1"
    (path / "additional_chat_templates").mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 8)
    (path / "tokenizer.json").write_bytes(b"{}" * 1000)
    (path / "README.md").write_text("card", encoding="utf-8")
    (path / "additional_chat_templates" / "tool.jinja").write_text("t", encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("large_file", [1 << 20, 1000])
def test_the_repository_holds_what_the_folder_holds_after_one_commit(
    hub: HubServer, folder: Path, large_file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_repo, "LARGE_FILE", large_file)
    HubRepo("me/adapter").commit(folder, "Adapter of step 1")
    repository = hub.repositories["me/adapter"]
    assert repository.files == contents(folder)
    assert [message for message, _ in repository.commits] == ["Adapter of step 1"]
    assert len(hub.asked("PUT", "/lfs/")) == 2


@pytest.mark.parametrize("private", [True, False])
def test_it_is_made_private_unless_asked_for_otherwise(hub: HubServer, folder: Path, private: bool) -> None:
    HubRepo("me/adapter", **({} if private else {"private": False})).commit(folder, "m")
    assert hub.repositories["me/adapter"].private is private


def test_a_public_repository_is_never_taken_for_a_private_one(hub: HubServer, folder: Path) -> None:
    hub.repositories["me/adapter"] = Repository(private=False)
    with pytest.raises(PublicRepositoryError, match="exists and is public"):
        HubRepo("me/adapter").commit(folder, "m")
    repo = HubRepo("me/other")
    repo.commit(folder, "m")
    hub.repositories["me/other"].private = False  # made public while the run goes on
    with pytest.raises(PublicRepositoryError):
        repo.commit(folder, "m")
    assert hub.repositories["me/adapter"].commits == []
    assert len(hub.repositories["me/other"].commits) == 1
    HubRepo("me/adapter", private=False).commit(folder, "m")
    assert hub.repositories["me/adapter"].files == contents(folder)


def test_weights_of_before_are_deleted_and_the_users_own_files_kept(hub: HubServer, tmp_path: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    kept = {"mine.txt": b"mine", "gguf/model.safetensors": b"theirs"}
    hub.repositories["me/m"] = Repository(True, {**dict.fromkeys(shards, b"old"), **kept})
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "model.safetensors").write_bytes(b"new")
    HubRepo("me/m").commit(tmp_path / "f", "m")
    assert hub.repositories["me/m"].files == {"model.safetensors": b"new", **kept}
    assert len(hub.repositories["me/m"].commits) == 1


def test_the_token_goes_to_the_hub_in_its_header_and_nowhere_else(
    hub: HubServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="huggingface_hub"), caplog.at_level(logging.DEBUG, logger="lodos"):
        HubRepo("me/adapter").commit(folder, "m")
    assert len(hub.requests) > 5
    for request in hub.requests:
        headers = dict(request.headers)
        given = headers.pop("authorization", None)
        assert given == (None if request.path.startswith("/lfs/") else f"Bearer {TOKEN}")
        assert TOKEN not in json.dumps(headers) + request.path
        assert TOKEN.encode() not in request.body
    assert TOKEN not in caplog.text


@pytest.mark.usefixtures("hub")
def test_a_reason_shows_neither_token_nor_signature() -> None:
    error = RuntimeError("Error while uploading")
    error.__cause__ = ValueError(f"Illegal header value b'Bearer {TOKEN}'\nfor url: 'http://x.org/lfs/1?signature=s3'")
    said = reason(error)
    assert said == (
        "RuntimeError: Error while uploading ValueError: Illegal header value b'Bearer <token>' "
        "for url: 'http://x.org/lfs/1'"
    )


def test_what_the_hub_says_back_shows_neither_token_nor_signature(hub: HubServer, folder: Path) -> None:
    hub.refused_commits = [(400, f"refused: Bearer {TOKEN} at http://bucket/x?signature={SIGNATURE}")]
    with pytest.raises(HfHubHTTPError) as raised:
        HubRepo("me/adapter").commit(folder, "m")
    assert TOKEN in str(raised.value)
    said = reason(raised.value)
    assert "refused: Bearer <token> at http://bucket/x" in said
    assert SIGNATURE not in said


@pytest.mark.parametrize(
    "repo", ["true", "adapter", "me/a/b", "me/", "/a", "https://huggingface.co/me/a", "me/a--b", "me/a b", "", "~/a"]
)
def test_what_is_no_name_of_a_repository_is_refused(repo: str) -> None:
    with pytest.raises(UserError, match=r"hf_upload: .* is not a repository of the hub.*my-name/my-adapter"):
        check_upload("hf_upload", repo, "some/model")


def test_the_base_models_own_repository_is_refused_by_every_name_it_has(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Some--Model-1" / "snapshots" / "0123"
    copy = tmp_path / "copy"
    for folder in (snapshot, copy):
        folder.mkdir(parents=True)
    (copy / "config.json").write_text('{"_name_or_path": "Some/Model-1"}', encoding="utf-8")
    for base in ("Some/Model-1", str(snapshot), str(copy)):
        for repo in ("Some/Model-1", "some/model-1"):
            with pytest.raises(UserError, match="base model's own repository, which is never written to"):
                check_upload("hf_upload", repo, base)
        check_upload("hf_upload", "me/model-1", base)
