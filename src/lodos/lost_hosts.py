"""What becomes of a host when another one dies or gives up: it ends, within a bounded time, and says which it was.

JAX's coordination service notices a host that sends no heartbeats; and a host notices when the service, which lives on
the first host, is gone. JAX's own answer is to abort the process (SIGABRT, pages of stack traces). So three threads
watch:

    the living      who still answers, as the service counts them
    the service     whether its port answers, for a machine that is gone takes no connection down
    who gives up    whether a host has said that it ends, and with which exit code

and an abort is held up for a few seconds, for them to end the process first.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

_LEAVING, _GONE = "lodos/leaving", "lodos/gone/"
_FAREWELL_SECONDS = 10
"""How long the first host waits for the others to hear that the job ends."""
_LOOK_SECONDS = 2.0


class LostHosts:
    """Watches over the other hosts of a job.

    Args:
        client: of JAX's coordination service.
        names: of the hosts, by number.
        status: the exit code when one is lost.
    """

    def __init__(
        self,
        client: Any,
        address: str,
        own: int,
        names: Mapping[int, str],
        *,
        heartbeat_timeout: int,
        status: int,
    ):
        self._client = client
        self._address = address
        self._own = own
        self._names = names
        self._seconds = heartbeat_timeout
        self._status = status
        self._is_leaving = threading.Event()

    def watch(self) -> None:
        """Begins to watch, in the background."""
        looks = (self._watch_living, self._watch_service, self._watch_leaving)
        self._threads = [threading.Thread(target=look, daemon=True) for look in looks]
        for thread in self._threads:
            thread.start()

    def leaving(self) -> None:
        """Whatever happens from now on is the end of the job."""
        self._is_leaving.set()

    def stop(self) -> None:
        """Returns when nobody watches any more, which is soon after the client was shut down."""
        for thread in self._threads:
            thread.join(timeout=10)

    def wait(self) -> None:
        """For as long as it may take until a lost host is noticed; that ends the process."""
        time.sleep(self._seconds + 4 * _LOOK_SECONDS)

    def leave(self, status: int, message: str) -> None:
        """Ends this process, and has the others end as well: of several that leave, with the status of the first."""
        self.leaving()
        said = {"host": self._own, "status": status, "message": message}
        try:
            self._client.key_value_set(_LEAVING, json.dumps(said))
        except Exception:  # somebody was faster, or nobody is there to hear it
            with contextlib.suppress(Exception):
                status = json.loads(self._client.key_value_try_get(_LEAVING))["status"]
        self._end(status, "")

    def _watch_living(self) -> None:
        everyone = list(self._names)
        while not self._is_leaving.is_set():
            try:
                living = self._client.get_live_nodes(everyone)
            except Exception as error:  # whatever it is, the service is of no use any more
                self._lost(_hosts_in(str(error)) - {self._own} or {0} - {self._own})
                return
            if missing := set(everyone) - set(living):
                self._lost(missing)
            self._is_leaving.wait(_LOOK_SECONDS)

    def _watch_service(self) -> None:
        host, port = self._address.rsplit(":", 1)
        since = None
        while self._own != 0 and not self._is_leaving.is_set():
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK_SECONDS).close()
                since = None
            except OSError as error:
                since = since or time.monotonic()
                # Refused, the machine is there and the service is not. Otherwise it may be the network, for a while.
                patience = _LOOK_SECONDS if isinstance(error, ConnectionRefusedError) else self._seconds - 5
                if time.monotonic() - since > patience:
                    self._lost({0})
            self._is_leaving.wait(_LOOK_SECONDS)

    def _watch_leaving(self) -> None:
        while not self._is_leaving.is_set():
            try:
                said = json.loads(self._client.key_value_try_get(_LEAVING))
            except Exception as error:
                if "NOT_FOUND" not in str(error):
                    return  # the service is gone, which others watch
                self._is_leaving.wait(_LOOK_SECONDS)
                continue
            if said["host"] != self._own and not self._is_leaving.is_set():
                self.leaving()
                self._end(said["status"], f"{self._name(said['host'])} has ended: {said['message']}")

    def _lost(self, hosts: set[int]) -> None:
        if self._is_leaving.is_set():
            return
        named = ", ".join(self._name(host) for host in sorted(hosts)) or "a host"
        was = "was" if len(hosts) < 2 else "were"
        _say(f"error: {named} {was} lost. Start the job again: it goes on from its newest checkpoint.")
        os._exit(self._status)

    def _end(self, status: int, message: str) -> None:
        if message:
            _say(message)
        sys.stdout.flush()
        patience = threading.Timer(_FAREWELL_SECONDS if self._own == 0 else _LOOK_SECONDS, os._exit, [status])
        patience.start()
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{_GONE}{self._own}", "")
            # With the first host goes what the others hear it by.
            while self._own == 0 and len(self._client.key_value_dir_get(_GONE)) < len(self._names):
                time.sleep(0.1)
        os._exit(status)

    def _name(self, host: int) -> str:
        known = self._names.get(host)
        return f"host {host} ({known})" if known else f"host {host}"


def outlive_abort() -> None:
    """Has SIGABRT wait for some seconds before it ends the process, in which a thread may end it otherwise.

    The handler is the C library's `sleep`, which the number of the signal tells how long: no Python runs in it.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))


@contextlib.contextmanager
def named_absence(address: str, number: int, own: int, seconds: int, status: int) -> Iterator[None]:
    """Within it hosts join, and JAX would abort when one does not come: so this ends the process first, naming it.

    What JAX says meanwhile is read from standard error, for it tells who is missing nowhere else; it is passed on.
    """
    done = threading.Event()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)

        def look() -> None:
            until = time.monotonic() + seconds + 20
            while not done.wait(0.2):
                text = os.pread(said.fileno(), 1 << 20, 0).decode(errors="replace")
                missing = re.search(r"timed out task names:\n([\d,\s]*\d)", text)
                if missing is None and "Check failure stack trace" not in text and time.monotonic() < until:
                    continue
                hosts = re.findall(r"\d+", missing[1]) if missing else []
                who = (
                    f"host {', '.join(hosts)} of {number} did not come to {address}"
                    if hosts
                    else (f"nobody answers at {address}, where host 0 should be" if own else "the others did not come")
                )
                os.write(stderr, f"error: {who} within {seconds} s. Is it running, and can it be reached?\n".encode())
                os._exit(status)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))


def _hosts_in(error: str) -> set[int]:
    """The hosts that an error of the service speaks of."""
    found = re.findall(r"[Tt]ask (\d+) (?:heartbeat|recorded|disconnected|has)", error)
    if unhealthy := re.search(r"unhealthy[^\n]*\n([\d,\s]*\d)", error):
        found += re.findall(r"\d+", unhealthy[1])
    return {int(host) for host in found}


def _say(line: str) -> None:
    sys.stderr.flush()
    os.write(2, f"{line}\n".encode())
