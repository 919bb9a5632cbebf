"""The babysitter against a stand-in for gcloud: what is retried, what is not, and where secrets go."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cloud_stand_in import ROOT, Cloud, reached, wait_for

CANARY = "canary-5ecret-4f1d"

# A job that counts to ten, once for all that were killed: what a run that resumes does. At the steps named it waits
# for its end.
COUNT = """
import os, sys, time
from pathlib import Path
done = Path(sys.argv[1], os.environ["RUN_ID"] + "-" + os.environ["WORKER"])
start = int(done.read_text()) if done.exists() else 0
for step in range(start + 1, 11):
    time.sleep(0.1)
    done.write_text(str(step))
    print("step", step, flush=True)
    if str(step) in sys.argv[2:]:
        time.sleep(300)
"""


def counting(cloud: Cloud, *, until: Sequence[int] = ()) -> list[str]:
    (cloud.folder / "count.py").write_text(COUNT, encoding="utf-8")
    return [sys.executable, str(cloud.folder / "count.py"), str(cloud.folder), *map(str, until)]


def test_it_runs_on_every_worker_and_deletes_the_vm(cloud: Cloud) -> None:
    code, output = cloud.run(*counting(cloud), flags=("--preemptible", "-n", "net", "--subnetwork", "sub"))
    assert code == 0, output
    (create,) = cloud.calls("create")
    assert create[2:5] == ["tpu-vm", "create", "llama-32"]
    assert set(create[5:]) == {
        "--zone=us-east1-d",
        "--accelerator-type=v3-32",
        "--network=net",
        "--subnetwork=sub",
        "--preemptible",
        "--version=tpu-ubuntu2204-base",
    }
    assert [(cloud.folder / f"llama-32-{worker}").read_text() for worker in (0, 1)] == ["10", "10"]
    assert "[0] step 10" in output
    assert "[1] step 10" in output
    assert len(cloud.calls("delete")) == 1
    assert not (cloud.folder / "llama-32").exists()


def test_preemptions_do_not_count_and_the_run_goes_on_by_its_name(cloud: Cloud) -> None:
    preempted = (2, 4, 6)
    with cloud.start(*counting(cloud, until=preempted), flags=("--retries", "0")) as process:
        for step in preempted:
            for worker in (0, 1):
                wait_for(reached(cloud.folder / f"llama-32-{worker}", step))
            cloud.preempt()
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.count("the VM was taken away") == 3
    steps = [line for line in output.splitlines() if line.startswith("[0] step ")]
    # A step may be done and not yet shown; none is done twice.
    assert len(set(steps)) == len(steps)
    assert steps[-1] == "[0] step 10"
    assert len(cloud.calls("create")) == 4


def test_a_machine_that_goes_without_a_word_is_noticed(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BABYSIT_SECONDS_WITHOUT_A_VM", "0.2")
    (cloud.folder / "silent").touch()
    with cloud.start(*counting(cloud, until=[2]), flags=("--retries", "0")) as process:
        for worker in (0, 1):
            wait_for(reached(cloud.folder / f"llama-32-{worker}", 2))
        cloud.preempt()
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.count("the VM was taken away") == 1


def test_what_the_user_has_to_mend_ends_it_at_once(cloud: Cloud) -> None:
    code, output = cloud.run("bash", "-c", "echo 'error: lora.rank: unknown' >&2; exit 1")
    assert code == 1
    assert "[1] error: lora.rank: unknown" in output
    assert output.count("running on 2 workers") == 1


def test_a_users_mistake_on_one_worker_counts_before_the_others_loss_of_it(cloud: Cloud) -> None:
    code, output = cloud.run("bash", "-c", 'test "$WORKER" = 0 && exit 2; sleep 0.5; exit 42')
    assert code == 2
    assert output.count("running on 2 workers") == 1


def test_failures_are_tried_again_a_few_times(cloud: Cloud) -> None:
    code, output = cloud.run("bash", "-c", "exit 137", flags=("--retries", "2"))
    assert code == 137
    assert output.count("running on 2 workers") == 3


def test_infrastructure_is_tried_again_as_often_as_it_takes(cloud: Cloud) -> None:
    count = 'echo . >>"$HOME/tries"; test "$(wc -l <"$HOME/tries")" -ge 6 || exit 42'
    code, output = cloud.run("bash", "-c", count, flags=("--retries", "0"))
    assert code == 0
    assert output.count("running on 2 workers") == 6


def test_a_failing_gcloud_is_no_users_mistake(cloud: Cloud) -> None:
    """Its own exit code is 1, as that of a wrong config."""
    lost = 'test -e "$HOME/once" || { touch "$HOME/once"; kill -KILL $PPID; sleep 5; }'
    code, output = cloud.run("bash", "-c", lost)
    assert code == 0, output
    assert "exit codes 255, 255" in output


def test_a_vm_that_is_not_to_be_had_is_waited_for(cloud: Cloud) -> None:
    (cloud.folder / "refusals").write_text("RESOURCE_EXHAUSTED: There is no more capacity in the zone\n" * 5)
    code, output = cloud.run("true", flags=("--retries", "0"))
    assert code == 0, output
    assert output.count("not to be had now") == 5


def test_a_vm_that_cannot_be_is_an_error(cloud: Cloud) -> None:
    (cloud.folder / "refusals").write_text("PERMISSION_DENIED: tpu.nodes.create\n")
    code, output = cloud.run("true")
    assert code == 1
    assert "PERMISSION_DENIED: tpu.nodes.create" in output


def test_queued_resources_are_asked_for_and_deleted(cloud: Cloud) -> None:
    code, output = cloud.run("true", flags=("--queued", "--spot"))
    assert code == 0, output
    (create,) = cloud.calls("create")
    assert create[2] == "queued-resources"
    assert {"--node-id=llama-32", "--spot", "--runtime-version=tpu-ubuntu2204-base"} <= set(create)
    assert cloud.calls("delete")[0][2] == "queued-resources"


def test_a_secret_is_nowhere_but_in_the_commands_environment(cloud: Cloud) -> None:
    """Not among the arguments of any process while it runs, in no file, on no line."""
    seen: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for arguments in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = arguments.read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if CANARY in line:
                    seen.append(line)
            time.sleep(0.01)

    job = f'sleep 1; test "$WANDB_API_KEY" = {CANARY[:6]}"{CANARY[6:]}" && echo "it is $WANDB_API_KEY"'
    watcher = threading.Thread(target=look)
    process = cloud.start(f"WANDB_API_KEY={CANARY}", "bash", "-c", job)
    time.sleep(0.3)  # the first shell has it as its argument until it has read it
    watcher.start()
    output, _ = process.communicate(timeout=600)
    stop.set()
    watcher.join()
    assert process.returncode == 0, output
    assert "it is <WANDB_API_KEY>" in output
    assert CANARY not in output
    # The job's own text has it in two pieces.
    assert not seen
    files = [path for path in cloud.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def test_a_termination_stops_the_command_and_leaves_the_vm(cloud: Cloud) -> None:
    job = "trap 'echo saved; exit 143' TERM; echo started; while :; do sleep 0.1; done"
    with cloud.start("bash", "-c", job) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "[1] started" in line:
                break
        process.send_signal(signal.SIGTERM)
        output = process.stdout.read()
        process.wait(timeout=60)
    assert process.returncode == 143
    assert "[0] saved" in output
    assert "[1] saved" in output
    assert "llama-32 stays" in output
    assert not cloud.calls("delete")


def test_keep_leaves_the_vm(cloud: Cloud) -> None:
    code, output = cloud.run("true", flags=("--keep",))
    assert code == 0
    assert "gcloud compute tpus tpu-vm delete llama-32 --zone=us-east1-d --quiet" in output
    assert (cloud.folder / "llama-32").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["llama", "-z", "z", "-t", "v9-8", "--", "true"], "'v9-8' is no TPU type"),
        (["llama", "-z", "z", "-t", "v3-8"], "no command"),
        (["llama", "-t", "v3-8", "--", "true"], "-z/--zone"),
        (["Llama", "-z", "z", "-t", "v3-8", "--", "true"], "small letters"),
        (["llama", "-z", "z", "-t", "v3-8", "--spot", "-p", "--", "true"], "choose one"),
        (["llama", "-z", "z", "-t", "v3-8", "-s", "nowhere.sh", "--", "true"], "nowhere.sh: No such file"),
    ],
)
def test_wrong_options_are_named(cloud: Cloud, arguments: list[str], message: str) -> None:
    script = ROOT / "infra" / "babysit-tpu-vm.sh"
    done = subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert not (cloud.folder / "calls.log").exists()


@pytest.mark.parametrize(
    ("type", "expected"),
    [("v5e-16", "v5litepod-16"), ("v5litepod-16", "v5litepod-16"), ("v6e-8", "v6e-8"), ("v4-32", "v4-32")],
)
def test_types_are_gclouds_or_short_for_them(type: str, expected: str, tpu_vm: Any) -> None:
    assert tpu_vm.accelerator_type(type) == expected
    assert tpu_vm.runtime_version(type) == tpu_vm.runtime_version(expected)


@pytest.fixture
def tpu_vm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "infra")
    import tpu_vm

    return tpu_vm
