"""Uploads in the background: their order, what is passed over, what a failure does, who is waited for."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import TOKEN, HubServer, Repository
from lodos.errors import Stopped, UserError
from lodos.formats import upload
from lodos.formats.upload import Uploads
from lodos.signals import listening


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    monkeypatch.setattr(logging.getLogger("lodos"), "propagate", True)  # which the command line switches off
    with caplog.at_level(logging.INFO, logger="lodos"):
        yield caplog


def step(tmp_path: Path, number: int) -> Path:
    folder = tmp_path / f"step-{number}"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(f"weights {number}".encode())
    (folder / "README.md").write_text("card", encoding="utf-8")
    return folder


def messages(hub: HubServer, repo: str) -> list[str]:
    return [message for message, _ in hub.repositories[repo].commits]


def test_submitting_returns_at_once_and_a_superseded_folder_is_passed_over(
    hub: HubServer, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    hub.open.clear()
    with Uploads() as uploads:
        uploads.submit("me/a", step(tmp_path, 1), "1")
        assert hub.receiving.wait(20)  # the first is on its way and stuck; nothing here waited for it
        for number in (2, 3):
            uploads.submit("me/a", step(tmp_path, number), str(number))
            uploads.submit("me/merged", tmp_path / f"step-{number}", f"merged {number}")
        assert "me/merged" not in hub.repositories
        hub.open.set()
    assert messages(hub, "me/a") == ["1", "3"]
    assert messages(hub, "me/merged") == ["merged 3"]
    assert hub.repositories["me/a"].files["adapter_model.safetensors"] == b"weights 3"
    assert told.text.count("Not uploaded, since a newer one is there") == 2
    assert "Waiting for uploads to the hub" in told.text
    commits = [one.path for one in hub.asked("POST", "/commit/")]
    assert commits == [f"/api/models/me/{name}/commit/main" for name in ("a", "a", "merged")]


def test_a_failure_is_told_with_what_to_do_and_the_next_one_goes_up(
    hub: HubServer, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    hub.refused_commits = [(403, f"storage limit reached, {TOKEN}")]
    uploads = Uploads()
    uploads.submit("me/a", step(tmp_path, 1), "1")
    uploads.wait()
    warning, at_the_end = [record for record in told.records if record.levelno == logging.WARNING]
    assert at_the_end.getMessage().startswith("Not uploaded: ")
    assert "storage limit reached, <token>" in warning.getMessage()
    assert f"By hand: hf upload me/a {tmp_path / 'step-1'}" in warning.getMessage()
    uploads.submit("me/a", step(tmp_path, 2), "2")
    uploads.wait()
    assert messages(hub, "me/a") == ["2"]
    assert TOKEN not in told.text


def test_an_unreachable_hub_is_a_warning_before_training_and_after_each_step(
    tmp_path: Path, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the port of `discard`
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Uploads() as uploads:
        uploads.check("hf_upload", "me/a")
        assert "me/a: the hub cannot be reached now, and will be tried again: ConnectError" in told.text
        uploads.submit("me/a", step(tmp_path, 1), "1")
    assert "not uploaded: ConnectError" in told.text
    assert told.text.rstrip().endswith(
        f"Not uploaded: {tmp_path / 'step-1'}. By hand: hf upload me/a {tmp_path / 'step-1'}"
    )


@pytest.mark.parametrize("fault", ["refuses", "stalls", "answers 500", "dies in the middle", "stalls in the middle"])
def test_a_hub_that_fails_is_waited_for_ten_seconds_in_all(
    hub: HubServer, tmp_path: Path, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    import socket

    from huggingface_hub import constants

    folder = step(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if fault in ("refuses", "stalls"):
            port = 9 if fault == "refuses" else silent.getsockname()[1]
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        hub.broken = fault == "answers 500"
        if "middle" in fault:
            hub.open.clear()
        uploads = Uploads()
        waited = -time.monotonic()
        uploads.check("hf_upload", "me/a")
        uploads.submit("me/a", folder, "1")
        waited += time.monotonic()
        if "middle" in fault:
            assert hub.receiving.wait(20)
            hub.stalled = True
        if fault == "dies in the middle":
            hub.die()
        waited -= time.monotonic()
        uploads.wait()
        waited += time.monotonic()
    assert waited < upload.PATIENCE + 1
    assert told.text.rstrip().endswith(f"Not uploaded: {folder}. By hand: hf upload me/a {folder}")
    assert uploads.needs(folder) is False


def test_a_hub_that_comes_back_gets_what_it_missed(
    hub: HubServer, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    hub.broken = True
    uploads = Uploads()
    uploads.submit("me/a", step(tmp_path, 1), "1")
    while "it is tried again" not in told.text:
        time.sleep(0.05)
    hub.broken = False
    uploads.wait()
    assert messages(hub, "me/a") == ["1"]
    assert "Not uploaded: " not in told.text


def test_what_the_hub_refuses_is_an_error_before_training(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    Uploads().check("hf_upload", "me/new")
    assert hub.repositories["me/new"].private
    with pytest.raises(UserError, match=r"hf_upload: theirs/a: the hub refuses: .*write access"):
        Uploads().check("hf_upload", "theirs/a")
    hub.repositories["me/public"] = Repository(private=False)
    with pytest.raises(UserError, match=r"hf_upload: me/public exists and is public. hf_private: false"):
        Uploads().check("hf_upload", "me/public")
    Uploads(private=False).check("hf_upload", "me/public")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UserError, match=r"the hub refuses: .*401"):
        Uploads().check("hf_upload", "me/other")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=r"hf_upload: me/new: there is no token to upload with. Set HF_TOKEN"):
        Uploads().check("hf_upload", "me/new")


def test_a_ctrl_c_that_ends_the_run_does_not_wait(
    hub: HubServer, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    hub.open.clear()
    started = time.monotonic()
    uploads = Uploads()

    def interrupted() -> None:
        with uploads:
            uploads.submit("me/a", step(tmp_path, 1), "1")
            assert hub.receiving.wait(20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    uploads.wait()  # as Python does at its exit
    assert time.monotonic() - started < 20
    assert f"By hand: hf upload me/a {tmp_path / 'step-1'}" in told.text


def test_a_stop_does_not_wait_for_uploads_without_end(
    hub: HubServer, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    """Neither a run that was stopped before, nor one that is told to stop while it waits."""
    hub.open.clear()
    started = time.monotonic()
    uploads = Uploads()
    uploads.submit("me/a", step(tmp_path, 1), "1")
    uploads.wait(seconds=0.2)
    assert f"By hand: hf upload me/a {tmp_path / 'step-1'}" in told.text
    uploads.submit("me/a", step(tmp_path, 2), "2")
    timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM])
    timer.start()
    with listening(), pytest.raises(Stopped):
        uploads.wait()
    assert f"By hand: hf upload me/a {tmp_path / 'step-2'}" in told.text
    uploads.wait()  # as Python does at its exit
    assert time.monotonic() - started < 20


SCRIPT = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO)
from lodos.formats.upload import Uploads
from lodos.signals import listening
mode, *folders = sys.argv[1:]
if mode == "library":
    Uploads().submit("me/a", Path(folders[0]), "1")  # and the script is at its end
else:
    with Uploads() as uploads:
        for number, folder in enumerate(folders):
            uploads.submit(f"me/{number}", Path(folder), "1")
    print("left")
"""


def start(hub: HubServer, mode: str, *folders: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", SCRIPT, mode, *map(str, folders)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_python_does_not_exit_before_the_upload_is_done(hub: HubServer, tmp_path: Path) -> None:
    hub.open.clear()
    process = start(hub, "library", step(tmp_path, 1))
    assert hub.receiving.wait(60)
    time.sleep(0.5)
    assert process.poll() is None
    hub.open.set()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert messages(hub, "me/a") == ["1"]
    assert "Waiting for uploads" in said


def test_ctrl_c_while_waiting_leaves_at_once_with_the_commands_to_use(hub: HubServer, tmp_path: Path) -> None:
    hub.open.clear()
    folders = [step(tmp_path, 1), step(tmp_path, 2)]
    # Large and several, so that threads of huggingface_hub would be in the way of leaving.
    for name in ("tokenizer.json", "adapter_model.safetensors"):
        (folders[0] / name).write_bytes(os.urandom(2 << 20))
    process = start(hub, "wait", *folders)
    assert hub.receiving.wait(60)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, said = process.communicate(timeout=20)  # though nothing was let through
    assert (process.returncode, output) == (0, "left\n")
    for number, folder in enumerate(folders):
        assert f"hf upload me/{number} {folder}" in said
    assert TOKEN not in said + json.dumps(sorted(map(str, tmp_path.rglob("*"))))
