"""Runs a command on every worker of a TPU VM until it is done, through preemptions.

    infra/babysit-tpu-vm.sh llama-32 -z us-east1-d -t v3-32 --preemptible -- \\
        WANDB_API_KEY=... HF_TOKEN=... bash lodos/infra/run.sh lodos train --config_path gs://.../my.yaml

In order: the VM is made where it is not there, each worker is set up, the command runs on all of them at once. Then

    every worker gave 0                  done
    a worker gave 1 or 2                 the user has to mend something: over at once, with that code
    a worker gave 42, or the VM is gone  infrastructure: again, as often as it takes, on a new VM if need be
    anything else                        a failure: again, --retries times

Each time the command finds the same RUN_ID in its environment, so that it goes on where it stopped.

Knows nothing of what the command does but these exit codes.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import FrameType

from tpu_vm import GcloudError, State, TpuVm, runtime_version
from workers import Workers, redacted

TRY_AGAIN = 42
USERS_TO_MEND = (1, 2)
SECONDS_BETWEEN_LOOKS = float(os.environ.get("BABYSIT_SECONDS_BETWEEN_LOOKS", "15"))
"""Between two looks at a VM that is being made."""
LONGEST_PAUSE = 40 * SECONDS_BETWEEN_LOOKS
"""Before another attempt to get a VM that is not to be had."""
HERE = Path(__file__).resolve().parent


class Verdict(Enum):
    """What the exit codes of a command mean, and the state that its VM is in afterwards."""

    DONE = "done"
    USER = "to be mended by the user"
    PREEMPTED = "the VM was taken away"
    INFRASTRUCTURE = "infrastructure failed"
    FAILED = "failed"


def judge(codes: Sequence[int], state: State) -> Verdict:
    """The verdict on the exit codes of all workers.

    A worker that fails takes the others along with 42, so its own code counts before theirs. A VM that is gone explains
    every code but those of a user's mistake, which a new one would not mend.
    """
    if not any(codes):
        return Verdict.DONE
    if any(code in USERS_TO_MEND for code in codes):
        return Verdict.USER
    if state is not State.READY:
        return Verdict.PREEMPTED
    failures = [code for code in codes if code not in (0, TRY_AGAIN)]
    return Verdict.FAILED if failures else Verdict.INFRASTRUCTURE


class Babysitter:
    """One command on one VM.

    Args:
        environment: of the command, on every worker.
        setup: a script that makes a worker ready, and the environment for it besides the command's.
        retries: how often a command that failed is run again.
        keep: leave the VM when all is over.
    """

    def __init__(
        self,
        vm: TpuVm,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        setup: tuple[str, Mapping[str, str]],
        retries: int,
        keep: bool,
    ) -> None:
        self._vm = vm
        self._command = command
        self._environment = environment
        self._setup = setup
        self._retries = retries
        self._keep = keep
        self._workers: Workers | None = None
        self._is_set_up = False

    def run(self) -> int:
        """The exit code of the command: 0, the user's, or that of the last failure."""
        failures = 0
        while True:
            self._make_ready()
            verdict, codes = self._attempt()
            say(f"{verdict.value}; exit codes {', '.join(map(str, codes))}")
            match verdict:
                case Verdict.DONE:
                    return 0
                case Verdict.USER:
                    return next(code for code in codes if code in USERS_TO_MEND)
                case Verdict.PREEMPTED:
                    self._is_set_up = False
                case Verdict.INFRASTRUCTURE:
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                case Verdict.FAILED:
                    failures += 1
                    if failures > self._retries:
                        say(f"failed {failures} times: giving up.")
                        return next(code for code in codes if code)
                    say(f"again, attempt {failures + 1} of {self._retries + 1}")
                    time.sleep(SECONDS_BETWEEN_LOOKS)

    def stop_command(self) -> None:
        """Asks the command on every worker to stop, as for a preemption, and waits until it has."""
        if self._workers is not None:
            self._workers.stop()

    def clean_up(self, *, keep: bool | None = None) -> None:
        """Deletes the VM, unless it is to stay."""
        if self._keep if keep is None else keep:
            say(f"{self._vm.name} stays, and costs money until: {self._vm.how_to_delete()}")
            return
        say(f"deleting {self._vm.name}")
        try:
            self._vm.delete()
        except GcloudError as error:
            say(f"{self._vm.name} could not be deleted: {error}\nIt costs money until: {self._vm.how_to_delete()}")

    def _attempt(self) -> tuple[Verdict, list[int]]:
        """Sets up the workers if that has not been done, and runs the command on them."""
        if not self._is_set_up:
            script, environment = self._setup
            say(f"setting up {self._vm.worker_count()} workers")
            codes = self._run(["bash", "-c", script], {**self._environment, **environment})
            if any(codes):  # which says nothing of the command
                return (Verdict.FAILED if self._look() is State.READY else Verdict.PREEMPTED), codes
            self._is_set_up = True
        words = redacted(shlex.join(self._command), self._environment)
        say(f"running on {self._vm.worker_count()} workers: {words}")
        codes = self._run(self._command, self._environment)
        return judge(codes, self._state_after(codes)), codes

    def _run(self, command: Sequence[str], environment: Mapping[str, str]) -> list[int]:
        with Workers(self._vm, command, environment) as self._workers:
            codes = self._workers.wait()
        self._workers = None
        return codes

    def _make_ready(self) -> None:
        """Returns when the VM is there, however long there is none to be had."""
        pause = SECONDS_BETWEEN_LOOKS
        attempts = 0
        while (state := self._look()) is not State.READY:
            if state is State.PENDING:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                continue
            self._is_set_up = False
            if state is State.GONE:
                say(f"{self._vm.name} is there and unusable: deleting it")
                self._vm.delete()
            try:
                say(f"making {self._vm.describe()}")
                self._vm.create()
            except GcloudError as error:
                attempts += 1
                if error.is_final or (not error.is_lack_of_capacity and attempts > self._retries):
                    raise
                say(f"not to be had now ({error}); again in {pause:.0f} s")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _look(self) -> State:
        """The VM's state; an answer that does not come is asked for again."""
        for attempt in range(5):
            try:
                return self._vm.state()
            except GcloudError as error:
                if error.is_final or attempt == 4:
                    raise
                time.sleep(SECONDS_BETWEEN_LOOKS)
        raise AssertionError

    def _state_after(self, codes: Sequence[int]) -> State:
        """A VM that is being taken away may look ready for a little longer: seen only where that matters."""
        state = self._look()
        if state is State.READY and any(code not in (0, TRY_AGAIN, *USERS_TO_MEND) for code in codes):
            time.sleep(2 * SECONDS_BETWEEN_LOOKS)
            state = self._look()
        return state


def say(message: str) -> None:
    print(f"[babysit {time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    args = parse(argv)
    environment = {name: os.environ[name] for name in os.environ.get("BABYSIT_ENV", "").split()}
    # Whoever starts the same VM's job again goes on with the same run.
    environment.setdefault("RUN_ID", args.name)
    babysitter = Babysitter(
        TpuVm(
            name=args.name,
            zone=args.zone,
            type=args.type,
            image=args.image or runtime_version(args.type),
            project=args.project,
            network=args.network,
            subnetwork=args.subnetwork,
            preemptible=args.preemptible,
            spot=args.spot,
            queued=args.queued,
        ),
        args.command,
        environment,
        setup=setup_of(args),
        retries=args.retries,
        keep=args.keep,
    )
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = babysitter.run()
    except GcloudError as error:
        say(f"gcloud: {error}")
        return 1
    except KeyboardInterrupt as interrupt:
        terminated = interrupt.args == (signal.SIGTERM,)
        say("stopping the command on all workers")
        babysitter.stop_command()
        # Without anyone to ask, nothing that may hold what nobody else has is thrown away.
        stays = args.keep or terminated or not sys.stdin.isatty() or _yes(f"Keep {args.name}?")
        babysitter.clean_up(keep=stays)
        return 143 if terminated else 130
    babysitter.clean_up()
    return code


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.SIGTERM)


def _yes(question: str) -> bool:
    try:
        return not input(f"{question} [Y/n] ").strip().lower().startswith("n")
    except (EOFError, KeyboardInterrupt):
        return True


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="babysit-tpu-vm.sh",
        description="Run a command on every worker of a TPU VM until it is done, through preemptions.",
        epilog="Everything after -- is the command; KEY=VALUE words at its head are its environment. The same line "
        "again goes on where it stopped.",
    )
    parser.add_argument("name", help="of the VM")
    parser.add_argument("-z", "--zone", required=True)
    parser.add_argument("-t", "--type", required=True, help="such as v3-32, v5e-16, v6e-8")
    parser.add_argument("-i", "--image", help="runtime version; by default the one for the type")
    parser.add_argument("-p", "--preemptible", action="store_true", help="cheaper; taken away within 24 hours")
    parser.add_argument("--spot", action="store_true", help="cheaper, may be taken away at any time")
    parser.add_argument("-s", "--setup", metavar="FILE", help="sets up a worker; by default setup-worker.sh")
    parser.add_argument("-r", "--repo", help="repository that each worker clones; by default this one's origin")
    parser.add_argument("-b", "--branch", help="by default the one that is checked out here")
    parser.add_argument("-n", "--network")
    parser.add_argument("--subnetwork")
    parser.add_argument("--project")
    parser.add_argument("--retries", type=int, default=3, help="of a command that fails; preemptions do not count")
    parser.add_argument("--keep", action="store_true", help="leave the VM when all is over")
    parser.add_argument("--queued", action="store_true", help="ask for the VM as a queued resource")
    if "--" not in argv:
        parser.parse_args(argv)  # --help, or what is wrong with the options
        parser.error("no command. Write it after --, such as: -- bash lodos/infra/run.sh lodos train ...")
    split = argv.index("--")
    args = parser.parse_args(argv[:split])
    args.command = argv[split + 1 :]
    if not args.command:
        parser.error("no command after --.")
    if args.preemptible and args.spot:
        parser.error("--preemptible and --spot: choose one.")
    if args.subnetwork and not args.network:
        parser.error("--subnetwork: give its --network too.")
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", args.name):
        parser.error(f"{args.name}: a VM's name has small letters, digits and hyphens, and begins with a letter.")
    if args.retries < 0:
        parser.error(f"--retries: {args.retries} must be at least 0.")
    return args


def setup_of(args: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """What is run on each worker first, and what of its environment says which repository."""
    path = Path(args.setup) if args.setup else HERE / "setup-worker.sh"
    try:
        script = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"--setup: {path}: {error.strerror}.") from None
    repo = args.repo or _git("remote", "get-url", "origin")
    if not repo and args.setup is None:
        raise SystemExit("--repo: not given, and there is no remote called origin here that workers could clone.")
    branch = args.branch or _git("branch", "--show-current") or "main"
    return script, {"LODOS_REPO": repo, "LODOS_BRANCH": branch}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
