"""A TPU VM, through gcloud. Nothing secret is among the arguments of what is started here."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
from enum import Enum

_RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""The runtime version of each generation: https://cloud.google.com/tpu/docs/runtimes."""

_SECONDS = {"describe": 300, "create": 3600, "delete": 3600}
"""How long gcloud may take, which has no limit of its own."""

_CAPACITY = re.compile(
    r"(?i:no (more )?capacity|not enough resources|stockout|timed? ?out|connection (reset|refused|aborted))|"
    r"RESOURCE_EXHAUSTED|UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|\b(429|500|502|503|504)\b"
)
_FINAL = re.compile(
    r"INVALID_ARGUMENT|PERMISSION_DENIED|unrecognized arguments|does not (exist|have permission)|Invalid choice|"
    r"not found in zone|not authenticated|do(es)? not currently have an active account",
    re.IGNORECASE,
)
_ABSENT = re.compile(r"NOT_FOUND|was not found|not found", re.IGNORECASE)


class State(Enum):
    """What can be done with a VM."""

    READY = "ready"
    PENDING = "on its way"
    GONE = "there and unusable: preempted, stopped, or ill"
    ABSENT = "not there"


class GcloudError(Exception):
    """What gcloud said when it failed."""

    @property
    def is_final(self) -> bool:
        """Whether asking again would give the same."""
        return bool(_FINAL.search(str(self))) and not self.is_lack_of_capacity

    @property
    def is_lack_of_capacity(self) -> bool:
        """Whether it is for lack of machines, or of an answer: later there may be some."""
        return bool(_CAPACITY.search(str(self)))


def accelerator_type(name: str) -> str:
    """gcloud's word for a type: `v5e-16` is `v5litepod-16` there.

    Raises:
        SystemExit: for a name that is none.
    """
    match = re.fullmatch(r"(v\d+(?:litepod|[ep])?)-(\d+)", name)
    generation = {"v5e": "v5litepod"}.get(match[1], match[1]) if match else ""
    if match is None or generation not in _RUNTIMES:
        known = ", ".join(f"{generation}-<n>" for generation in _RUNTIMES)
        raise SystemExit(f"--type: {name!r} is no TPU type. There are {known}; v5e-<n> is short for v5litepod-<n>.")
    return f"{generation}-{match[2]}"


def runtime_version(type: str) -> str:
    """The runtime version to make a VM of this type with."""
    return _RUNTIMES[accelerator_type(type).rsplit("-", 1)[0]]


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """A TPU VM that may or may not be there."""

    name: str
    zone: str
    type: str
    image: str
    project: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    preemptible: bool = False
    spot: bool = False
    queued: bool = False

    def describe(self) -> str:
        """In a few words."""
        how = "preemptible " if self.preemptible else "spot " if self.spot else ""
        return f"{how}{self.type} {self.name} in {self.zone} ({self.image})"

    def state(self) -> State:
        """What it is now.

        Raises:
            GcloudError: when gcloud does not say.
        """
        if self.queued and (state := self._queue_state()) is not State.READY:
            return state
        found = self._described("tpu-vm")
        if found is None:
            # A queued resource that is active without its node has lost it.
            return State.GONE if self.queued else State.ABSENT
        match found.get("state"):
            case "READY":
                return State.GONE if found.get("health") == "UNHEALTHY_MAINTENANCE" else State.READY
            case "CREATING" | "STARTING" | "RESTARTING" | "REIMAGING" | "REPAIRING" | "DELETING" | "STOPPING":
                return State.PENDING
        return State.GONE

    def worker_count(self) -> int:
        """How many workers it has."""
        found = self._described("tpu-vm") or {}
        return max(len(found.get("networkEndpoints", ())), 1)

    def create(self) -> None:
        """Makes it, or asks for it where it is queued."""
        options = [f"--accelerator-type={accelerator_type(self.type)}"]
        for flag, value in (("network", self.network), ("subnetwork", self.subnetwork)):
            options += [f"--{flag}={value}"] if value else []
        options += ["--preemptible"] if self.preemptible and not self.queued else []
        options += ["--spot"] if self.spot or (self.preemptible and self.queued) else []
        if self.queued:
            options += [f"--node-id={self.name}", f"--runtime-version={self.image}"]
            self._gcloud("queued-resources", "create", *options)
        else:
            self._gcloud("tpu-vm", "create", f"--version={self.image}", *options)

    def delete(self) -> None:
        """Deletes it; none is not an error."""
        try:
            self._gcloud(*self._deletion())
        except GcloudError as error:
            if not _ABSENT.search(str(error)):
                raise

    def how_to_delete(self) -> str:
        """The command that does."""
        return shlex.join(self._command(*self._deletion()))

    def ssh(self, worker: int, command: str) -> subprocess.Popen[bytes]:
        """Starts a command on a worker, whose standard input, output and errors are pipes."""
        arguments = self._command("tpu-vm", "ssh", f"--worker={worker}", f"--command={command}")
        # In a session of its own: Ctrl-C is for who asked for it, and stops the worker's command by other means.
        return subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_unasked(),
        )

    def _deletion(self) -> tuple[str, ...]:
        return ("queued-resources", "delete", "--force", "--quiet") if self.queued else ("tpu-vm", "delete", "--quiet")

    def _queue_state(self) -> State:
        found = self._described("queued-resources")
        if found is None:
            return State.ABSENT
        state = found.get("state", {})
        match state.get("state", state) if isinstance(state, dict) else state:
            case "ACTIVE":
                return State.READY
            case "FAILED" | "SUSPENDED" | "SUSPENDING":
                return State.GONE
        return State.PENDING

    def _described(self, kind: str) -> dict | None:
        try:
            return json.loads(self._gcloud(kind, "describe", "--format=json"))
        except GcloudError as error:
            if _ABSENT.search(str(error)):
                return None
            raise
        except ValueError as error:
            raise GcloudError(f"describe gave no JSON: {error}") from None

    def _gcloud(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                self._command(*arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                env=_unasked(),
                timeout=_SECONDS[arguments[1]],
            )
        except subprocess.TimeoutExpired as error:
            raise GcloudError(f"{shlex.join(arguments)}: timed out after {error.timeout:.0f} s") from None
        except FileNotFoundError:
            raise GcloudError(
                "it does not exist here: no such command. Install it: https://cloud.google.com/sdk/docs/install"
            ) from None
        if done.returncode:
            raise GcloudError(done.stderr.strip() or f"exit code {done.returncode}")
        return done.stdout

    def _command(self, kind: str, verb: str, *options: str) -> list[str]:
        project = [f"--project={self.project}"] if self.project else []
        return ["gcloud", "compute", "tpus", kind, verb, self.name, f"--zone={self.zone}", *project, *options]


def _unasked() -> dict[str, str]:
    """The environment of a gcloud that asks nothing: nobody would see it, and its standard input is not theirs."""
    return {**os.environ, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
