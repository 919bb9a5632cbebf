"""One command on all workers of a VM at once: its environment through standard input, its output line by line."""

import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tpu_vm import GcloudError, State, TpuVm

SECONDS_AFTER_THE_FIRST = 300.0
"""How long workers may go on when one has failed; lodos ends the others within about two minutes."""
SECONDS_WITHOUT_A_VM = float(os.environ.get("BABYSIT_SECONDS_WITHOUT_A_VM", "120"))
"""How long connections may stay open to a VM that is gone, and between two looks at whether it is: a machine that is
taken away takes no connection down."""
SECONDS_TO_SAVE = 180.0
"""How long a command may take to stop when it is asked to."""

_SECRET = re.compile(r"(token|key|secret|passw|credential)", re.IGNORECASE)

# A command whose connection broke may still be running: it is stopped first, as nobody hears it any more.
_STOP = """
pid=$(cat "$HOME/.lodos-job" 2>/dev/null) || exit 0
kill -TERM -- "-$pid" 2>/dev/null || exit 0
for _ in $(seq {tenths}); do kill -0 -- "-$pid" 2>/dev/null || exit 0; sleep 0.1; done
kill -KILL -- "-$pid" 2>/dev/null
"""
_RUN = """
( {stop} )
cd "$HOME"
setsid bash -c 'echo $$ >"$HOME/.lodos-job"; exec "$@"' job {command} </dev/null &
wait $!
code=$?
rm -f "$HOME/.lodos-job"
printf '\n%s %s\n' {marker} "$code"
"""
# gcloud gives 1 for failures of its own as a command does for a user's mistake, so the command's code is a last line.
_LOST = 255
"""The code of a command of which the connection did not bring one."""


class Workers:
    """A command that runs on every worker; left, none of its connections is open.

    Args:
        environment: of the command; it travels through standard input, and its secrets are taken out of the output.
    """

    def __init__(self, vm: TpuVm, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._vm = vm
        self._environment = environment
        self._marker = f"exit-code-{secrets.token_hex(8)}"
        self._codes: dict[int, int] = {}
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        script = exports + _RUN.format(stop=_stop(SECONDS_TO_SAVE), command=shlex.join(command), marker=self._marker)
        self._processes = [self._start(worker, script) for worker in range(vm.worker_count())]
        self._readers = [
            threading.Thread(target=self._show, args=(worker, process), daemon=True)
            for worker, process in enumerate(self._processes)
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._hang_up()

    def wait(self) -> list[int]:
        """The exit code of each worker, when all are done, or a while after the first has failed or the VM has gone."""
        deadline, look, missed = None, time.monotonic() + SECONDS_WITHOUT_A_VM, 0
        while any(process.poll() is None for process in self._processes):
            if time.monotonic() > look:
                missed = 0 if self._is_there() else missed + 1
                look = time.monotonic() + SECONDS_WITHOUT_A_VM
                if missed == 2:
                    self._hang_up()
                    break
            if deadline is None and any(self._codes.values()):
                deadline = time.monotonic() + SECONDS_AFTER_THE_FIRST
            if deadline is not None and time.monotonic() > deadline:
                self.stop()
                break
            time.sleep(0.1)
        for reader in self._readers:
            reader.join(timeout=5)
        return [self._codes.get(worker, _LOST) for worker in range(len(self._processes))]

    def stop(self) -> None:
        """Asks the command to stop on every worker, and waits until it has; then nobody listens any more."""
        stopping = [self._start(worker, _stop(SECONDS_TO_SAVE)) for worker in range(len(self._processes))]
        deadline = time.monotonic() + SECONDS_TO_SAVE + 30
        for process in [*stopping, *self._processes]:
            try:
                process.wait(timeout=max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
        self._hang_up()

    def _is_there(self) -> bool:
        try:
            return self._vm.state() is State.READY
        except GcloudError:  # which says nothing of the VM
            return True

    def _start(self, worker: int, script: str) -> subprocess.Popen[bytes]:
        process = self._vm.ssh(worker, "bash -s")
        assert process.stdin is not None
        try:
            process.stdin.write(script.encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it is gone already; its exit code says so
        return process

    def _show(self, worker: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip("\r\n")
            if text.startswith(self._marker):
                self._codes[worker] = int(text.split()[1])
            elif text:
                # In one piece: print writes the line's end apart, and another worker's line may come between.
                sys.stdout.write(f"[{worker}] {redacted(text, self._environment)}\n")
                sys.stdout.flush()
        self._codes.setdefault(worker, _LOST)

    def _hang_up(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """The text without the values of what is secret by its name."""
    for name, value in environment.items():
        if value and _SECRET.search(name):
            text = text.replace(value, f"<{name}>")
    return text


def _stop(seconds: float) -> str:
    return _STOP.format(tenths=round(10 * seconds))
