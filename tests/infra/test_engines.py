"""What is written for others' engines is read by their own parsers, or held against their published schemas."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
SKY = sorted((INFRA / "sky").glob("*.yaml"))
USERS_TO_MEND, TRY_AGAIN = [1, 2], [42, 143]

PARSE = """
import sys, yaml, sky
for path in sys.argv[1:]:
    try:
        sky.Task.from_yaml_config(yaml.safe_load(open(path)))
    except ValueError as error:
        assert "is None. Please set a" in str(error), error
    else:
        sys.exit(f"{path}: what has to be given is asked for after the machines are there")
    given = [("BUCKET", "gs://my-bucket"), ("LODOS_REPO", "https://example.org/lodos")]
    task = sky.Task.from_yaml_config(yaml.safe_load(open(path)), given)
    for resources in task.resources:
        recovery = resources.job_recovery
        # Of which exit codes of the user's own mistakes would make use, too.
        assert not recovery.get("max_restarts_on_errors"), recovery
        print(path, task.num_nodes, resources.use_spot, recovery["recover_on_exit_codes"])
"""


def test_skypilot_reads_its_jobs(tmp_path: Path) -> None:
    """In an environment of its own, since it pins what lodos does not."""
    python = ROOT / ".venv" / "skypilot" / "bin" / "python"
    if not python.exists():
        pytest.skip("needs SkyPilot: `make test` installs it into .venv/skypilot")
    environment = {**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(python), "-c", PARSE, *map(str, SKY)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line.startswith(str(INFRA))]
    assert {(Path(path).name, nodes, spot, codes) for path, nodes, spot, codes in lines} == {
        ("gpu-nodes.yaml", "2", "True", "[42, 143]"),
        ("gpu.yaml", "1", "True", "[42, 143]"),
        ("tpu-pod.yaml", "1", "True", "[42, 143]"),
    }


@pytest.mark.parametrize("path", SKY, ids=lambda path: path.name)
def test_skypilots_scripts_are_shell(path: Path) -> None:
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)
    assert all(value == "" for value in task["secrets"].values())


@pytest.fixture(scope="module")
def jobset() -> dict[str, Any]:
    return yaml.safe_load((INFRA / "jobset.yaml").read_text(encoding="utf-8"))


def test_the_jobsets_jobs_are_kubernetes(jobset: dict[str, Any]) -> None:
    import kubernetes_validate

    for replicated in jobset["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, **replicated["template"]}
        job["spec"]["template"].setdefault("metadata", {})
        kubernetes_validate.validate(job, "1.31", strict=True)


def test_the_jobset_has_the_fields_of_its_schema(jobset: dict[str, Any]) -> None:
    """Of jobset.x-k8s.io/v1alpha2, whose definition says these of spec."""
    actions = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
    of_rules = {"name", "action", "onJobFailureReasons", "onJobFailureMessagePatterns", "targetReplicatedJobs"}
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = jobset["spec"]
    assert set(spec) == {"failurePolicy", "replicatedJobs"}
    assert set(spec["failurePolicy"]) <= {"maxRestarts", "restartStrategy", "rules"}
    for rule in spec["failurePolicy"]["rules"]:
        assert set(rule) <= of_rules
        assert rule["action"] in actions
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    for replicated in spec["replicatedJobs"]:
        assert set(replicated) <= {"name", "replicas", "template", "dependsOn", "groupName"}


@pytest.mark.parametrize(
    ("codes", "action"),
    [(TRY_AGAIN, "RestartJobSetAndIgnoreMaxRestarts"), (USERS_TO_MEND, "FailJobSet")],
)
def test_the_jobset_does_with_each_exit_code_what_it_means(
    jobset: dict[str, Any], codes: list[int], action: str
) -> None:
    rules = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    (place,) = [i for i, rule in enumerate(rules) if rule.get("onExitCodes", {}).get("values") == codes]
    message = f"Container lodos for pod default/lodos failed with exit code {codes[0]} matching FailJob rule at index "
    matching = [
        rule["action"]
        for rule in jobset["spec"]["failurePolicy"]["rules"]
        if any(re.search(pattern, f"{message}{place}") for pattern in rule["onJobFailureMessagePatterns"])
    ]
    assert matching == [action]


def test_the_dockerfile_copies_what_is_there() -> None:
    from dockerfile_parse import DockerfileParser

    parser = DockerfileParser(path=str(INFRA / "Dockerfile"))
    assert parser.baseimage == "python:3.12-slim"
    copied = [entry["value"].split()[:-1] for entry in parser.structure if entry["instruction"] == "COPY"]
    assert copied
    assert all((ROOT / source).exists() for sources in copied for source in sources)
    (entrypoint,) = [entry["value"] for entry in parser.structure if entry["instruction"] == "ENTRYPOINT"]
    (workdir,) = [entry["value"] for entry in parser.structure if entry["instruction"] == "WORKDIR"]
    # Absolute, so that it is found from any folder that a container is started in.
    assert (ROOT / Path(yaml.safe_load(entrypoint)[1]).relative_to(workdir)).exists()


def test_slurms_script_queues_again_what_failed_by_itself(tmp_path: Path) -> None:
    """With srun and scontrol of the test's own, which say what they were asked."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "srun").write_text('#!/bin/sh\necho "srun $RUN_ID $*"; exit "$CODE"\n')
    (bin_folder / "scontrol").write_text('#!/bin/sh\necho "scontrol $*"\n')
    for program in bin_folder.iterdir():
        program.chmod(0o755)
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    for code, again in ((0, False), (1, False), (2, False), (42, True), (143, True), (137, False)):
        environment = {"PATH": path, "CODE": str(code), "SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(ROOT)}
        bash = shutil.which("bash")
        assert bash is not None
        command = [bash, str(INFRA / "slurm.sbatch"), "my.yaml", "--lora.r", "16"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == code
        run = f"bash {ROOT}/infra/run.sh lodos train my.yaml --lora.r 16"
        assert f"srun slurm-17 --kill-on-bad-exit=0 {run}" in done.stdout
        assert ("scontrol requeue 17" in done.stdout) == again


def test_run_gives_its_command_the_hubs_token_and_its_exit_code(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HUGGING_FACE_HUB_TOKEN": "abc"}
    command = ["bash", str(INFRA / "run.sh"), "bash", "-c", 'echo "token $HF_TOKEN"; exit 42']
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.returncode) == ("token abc\n", 42)
