"""Each tracker with its own package, writing its own files, which are read back by what reads them otherwise."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wandb_files
from lodos.errors import UserError
from lodos.tracking import external
from lodos.tracking.config import parse_trackers
from lodos.tracking.external import check_trackers, open_trackers
from lodos.tracking.tracker import TrackedRun

TYPES = ["wandb", "tensorboard", "trackio"]
CONFIG = {"model_name_or_path": "base", "lora": {"r": 8, "target_modules": ["q_proj"]}}


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account of the user's, nor a folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture(scope="session", autouse=True)
def trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trackio reads where its files go when it is imported."""
    assert "trackio" not in sys.modules
    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder))
        yield folder


def log(kind: str, run: TrackedRun, steps: range, **settings: Any) -> None:
    """Logs a loss for each of the steps, and a held-out loss for the even ones."""
    settings = {"mode": "offline", **settings} if kind == "wandb" else settings
    (tracker,) = open_trackers(parse_trackers(None, {"type": kind, **settings}), run)
    tracker.log_summary({"run": run.id, "parameters": 1000, "trainable_parameters": 10, "config": CONFIG})
    for step in steps:
        tracker.log({"train/loss": 1 / step, "train/grad_norm": 0.5}, step=step)
        if step % 2 == 0:
            tracker.log({"eval/loss": 2 / step}, step=step)
    tracker.finish()


def scalars(kind: str, folder: Path, run_id: str, name: str, project: str = "lodos") -> list[tuple[int, float]]:
    """The (step, value) pairs that a tracker's files hold of a number."""
    if kind == "wandb":
        return [
            (int(row["_step"]), row[name])
            for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))
            for row in wandb_files.history(file)
            if name in row
        ]
    if kind == "tensorboard":
        return [(event.step, event.value) for event in tensorboard(folder / "tensorboard").Scalars(name)]
    from trackio.sqlite_storage import SQLiteStorage

    return [(row["step"], row[name]) for row in SQLiteStorage.get_logs(project, run_id) if name in row]


def tensorboard(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_are_read_back_at_their_steps(kind: str, tmp_path: Path) -> None:
    log(kind, TrackedRun(f"plain-{kind}", tmp_path, 0), range(1, 5))
    found = scalars(kind, tmp_path, f"plain-{kind}", "train/loss")
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [value for _, value in found] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert scalars(kind, tmp_path, f"plain-{kind}", "eval/loss") == [(2, 1.0), (4, 0.5)]


@pytest.mark.parametrize("kind", TYPES)
def test_a_resumed_run_goes_on_in_the_same_run_with_growing_steps(kind: str, tmp_path: Path) -> None:
    run_id = f"resumed-{kind}"
    log(kind, TrackedRun(run_id, tmp_path, 0), range(1, 8))
    # It was killed after step 7; the newest checkpoint was that of step 4.
    log(kind, TrackedRun(run_id, tmp_path, 4, logged_step=7), range(5, 11))
    for name, steps in (("train/loss", list(range(1, 11))), ("eval/loss", [2, 4, 6, 8, 10])):
        assert [step for step, _ in scalars(kind, tmp_path, run_id, name)] == steps
    if kind == "wandb":
        files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        runs = [record.run for file in files for record in wandb_files.records(file) if record.HasField("run")]
        assert len(files) == 2
        assert {run.run_id for run in runs} == {run_id}
    if kind == "trackio":
        from trackio.sqlite_storage import SQLiteStorage

        ids = [record["id"] for record in SQLiteStorage.get_run_records("lodos") if record["name"] == run_id]
        assert ids == [run_id]


@pytest.mark.parametrize("kind", ["tensorboard", "trackio"])
def test_a_run_begun_anew_hides_what_there_was_of_its_name(kind: str, tmp_path: Path) -> None:
    log(kind, TrackedRun(f"anew-{kind}", tmp_path, 0), range(1, 8))
    log(kind, TrackedRun(f"anew-{kind}", tmp_path, 0, logged_step=7), range(1, 4))
    assert [step for step, _ in scalars(kind, tmp_path, f"anew-{kind}", "train/loss")] == [1, 2, 3]


def test_wandb_has_project_name_tags_config_and_summary(tmp_path: Path) -> None:
    settings = dict(project="alpaca", entity="team", tags=["lora", "test"], name="first", group="g")
    log("wandb", TrackedRun("run 1", tmp_path, 0), range(1, 3), **settings)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = wandb_files.records(file)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.entity, run.display_name, run.run_group) == ("alpaca", "team", "first", "g")
    assert (run.run_id, list(run.tags)) == ("run-1", ["lora", "test"])
    config = {item.key: json.loads(item.value_json) for r in records for item in r.config.update}
    assert {name: config[name] for name in CONFIG} == CONFIG
    summary = {item.key: json.loads(item.value_json) for r in records for item in r.summary.update}
    assert (summary["parameters"], summary["trainable_parameters"]) == (1000, 10)


def test_tensorboard_has_config_and_summary_as_text(tmp_path: Path) -> None:
    log("tensorboard", TrackedRun("run", tmp_path, 0), range(1, 3))
    accumulator = tensorboard(tmp_path / "tensorboard")
    texts = {
        name: json.loads(accumulator.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0])
        for name in ("config", "summary")
    }
    assert texts["config"] == CONFIG
    assert texts["summary"] == {"run": "run", "parameters": 1000, "trainable_parameters": 10}


def test_tensorboards_folder_may_be_elsewhere(tmp_path: Path) -> None:
    log("tensorboard", TrackedRun("run", tmp_path / "runs", 0), range(1, 3), logdir=str(tmp_path / "logs"))
    assert len(tensorboard(tmp_path / "logs" / "run").Scalars("train/loss")) == 2


def test_trackio_has_config_and_summary(tmp_path: Path) -> None:
    log("trackio", TrackedRun("configured", tmp_path, 0), range(1, 3), project="alpaca")
    from trackio.sqlite_storage import SQLiteStorage

    config = SQLiteStorage.get_run_config("alpaca", "configured")
    assert config is not None
    assert {name: config[name] for name in CONFIG} == CONFIG
    assert config["summary/parameters"] == 1000


def test_trackio_stays_on_this_machine_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://localhost:9/?write_token=x")
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setattr("huggingface_hub.whoami", lambda *_, **__: pytest.fail("the hub was asked who the user is"))
    log("trackio", TrackedRun("local", tmp_path, 0), range(1, 3))
    assert len(scalars("trackio", tmp_path, "local", "train/loss")) == 2


def test_wandb_keeps_no_command_line_no_code_and_no_packages_unless_asked(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from lodos.tracking.config import parse_trackers;"
        "from lodos.tracking.external import open_trackers; from lodos.tracking.tracker import TrackedRun;"
        "t, = open_trackers(parse_trackers({'mode': 'offline'}, None), TrackedRun('r', Path(sys.argv[1]), 0));"
        "t.log({'train/loss': 1.0}, step=1); print('printed-canary'); t.finish()"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "--token", "argument-canary"],
        check=True,
        env={**os.environ, "MY_SECRET": "environment-canary"},
        capture_output=True,
    )
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert [row["train/loss"] for row in wandb_files.history(file)] == [1.0]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for canary in (b"argument-canary", b"environment-canary", b"printed-canary"):
        assert canary not in everything
    assert not any(path.is_file() for path in tmp_path.glob("wandb/offline-run-*/files/**/*"))


def test_online_without_an_account_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    # In a process of its own: wandb keeps the key that another test has given it.
    program = (
        "from lodos.tracking.config import parse_trackers; from lodos.tracking.external import check_trackers;"
        "[check_trackers(parse_trackers({'project': 'p', 'mode': mode}, None)) for mode in ('offline', 'disabled')];"
        "print('others pass'); check_trackers(parse_trackers({'project': 'p'}, None))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "others pass\n"
    assert "UserError" in done.stderr
    assert re.search(r"no API key.*wandb login.*WANDB_API_KEY.*mode: offline", done.stderr)


@pytest.mark.parametrize(("kind", "module"), [("wandb", "wandb"), ("tensorboard", "tensorboardX"), ("trackio",) * 2])
def test_a_missing_package_is_named_with_what_installs_it(
    kind: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = external.importlib.util.find_spec
    monkeypatch.setattr(external.importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    with pytest.raises(UserError, match=rf"pip install 'lodos\[{kind}\]'"):
        check_trackers(parse_trackers(None, {"type": kind}))


def test_a_tracker_that_fails_is_said_once_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tracker,) = open_trackers(parse_trackers(None, {"type": "tensorboard"}), TrackedRun("run", tmp_path, 0))
    tracker.log({"train/loss": 1.0}, step=1)
    for step in (2, 3):
        tracker.log({"train/loss": object()}, step=step)  # pyright: ignore[reportArgumentType]
    tracker.log({"train/loss": 0.5}, step=4)
    tracker.finish()
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("lodos")]
    assert said.startswith("tensorboard: ")
    assert said.endswith("Training goes on; every number is in the run's log.jsonl.")
    assert scalars("tensorboard", tmp_path, "run", "train/loss") == [(1, 1.0), (4, 0.5)]


def test_a_tracker_that_cannot_be_opened_is_said_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be", encoding="utf-8")
    configs = parse_trackers(None, [{"type": "tensorboard", "logdir": str(tmp_path / "taken")}, {"type": "jsonl"}])
    assert open_trackers(configs, TrackedRun("run", tmp_path, 0)) == []
    assert "tensorboard: " in caplog.text
