"""The hosts of a job: joining them, who is first, waiting with a bound and a name, agreeing.

A host is a process. The engine is JAX's: the coordination service of `jax.distributed`, which this file alone knows.
Alone, every function here returns at once. (Arrays of several hosts: `gathering`.)

    join        before anything touches a device; in a cluster that JAX knows nothing has to be configured
    wait        until every host has come, for a time; the error names who has not
    same        what has to be equal on all hosts is, or the error names both
    from_first  a value that the first host decides
    leave       a host that cannot go on takes the others along, instead of leaving them to wait for it

What is waited for gives a barrier its name, never a counter: hosts that count differently would wait for ever.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import re
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
from jax._src import clusters, distributed
from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]

from lodos import signals
from lodos.errors import TRY_AGAIN, UserError
from lodos.lost_hosts import LostHosts, named_absence, outlive_abort

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1800
"""How long hosts wait for each other where nothing else is said."""
_NAMES_SECONDS = 60
_SHOWN = 12
"""Hosts that a message names."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """How the hosts of a job find each other. Under SLURM, Open MPI, on Cloud TPUs and GKE nothing of it is needed."""

    coordinator_address: str | None = None
    """Address and port of the first host, which it listens on; by default $JAX_COORDINATOR_ADDRESS."""
    num_processes: int | None = None
    """How many hosts (processes) there are; by default $JAX_NUM_PROCESSES."""
    process_id: int | None = None
    """Which of them this is, from 0; by default $JAX_PROCESS_ID."""
    local_device_ids: tuple[int, ...] | None = None
    """The GPUs that this process uses; by default all, or one a process where SLURM or Open MPI starts several."""
    initialization_timeout: int = 300
    """Seconds to wait for all hosts at the start."""
    heartbeat_timeout: int = 100
    """Seconds without a sign of life after which a host is taken for lost, and the others end with exit code 42."""

    def __post_init__(self) -> None:
        problems = [
            f"distributed.{name}: {value} must be at least {least}."
            for name, value, least in (
                ("num_processes", self.num_processes, 1),
                ("process_id", self.process_id, 0),
                ("initialization_timeout", self.initialization_timeout, 1),
                ("heartbeat_timeout", self.heartbeat_timeout, 10),
            )
            if value is not None and value < least
        ]
        if problems:
            raise UserError("\n".join(problems))

    def of_all(self) -> "DistributedConfig":
        """What is the same on every host."""
        return dataclasses.replace(self, process_id=None, local_device_ids=None)


@dataclasses.dataclass
class _Job:
    client: Any
    names: dict[int, str]
    lost: LostHosts
    is_finished: bool = False


_job: _Job | None = None


def count() -> int:
    return jax.process_count()


def index() -> int:
    return jax.process_index()


def is_first() -> bool:
    """Whether this host writes what is written once."""
    return index() == 0


def name(host: int) -> str:
    """A host as messages call it."""
    known = None if _job is None else _job.names.get(host)
    return f"host {host} ({known})" if known else f"host {host}"


def join(config: DistributedConfig) -> None:
    """Joins the job, if there is one. To be called before anything touches a device.

    It ends the process with exit code 42 if hosts do not come, naming them.

    Raises:
        UserError: for settings that do not go together.
    """
    global _job
    if _job is not None or (found := _found(config)) is None:
        return
    address, number, own, local_device_ids = found
    print(
        f"Waiting for {number} hosts, of which this is {own}, at {address}: at most {config.initialization_timeout} s.",
        file=sys.stderr,
        flush=True,
    )
    outlive_abort()
    # It would take SIGTERM for itself; stopping is agreed on with the steps.
    jax.config.update("jax_enable_preemption_service", False)
    if own == 0:
        _refuse_taken(address)
    seconds = config.initialization_timeout
    initialize = functools.partial(
        jax.distributed.initialize,
        address,
        number,
        own,
        local_device_ids=local_device_ids,
        cluster_detection_method="deactivate",
        # The service gives up first: it knows who is missing.
        initialization_timeout=seconds + 60,
        heartbeat_timeout_seconds=config.heartbeat_timeout,
    )
    with named_absence(address, number, own, seconds, TRY_AGAIN), _registered_within(seconds):
        _hearing_signals(initialize)
    client = distributed.global_state.client
    assert client is not None
    names = dict.fromkeys(range(number), "")
    lost = LostHosts(client, address, own, names, heartbeat_timeout=config.heartbeat_timeout, status=TRY_AGAIN)
    _job = _Job(client, names, lost)
    # From here on a host that ends is heard of, also while their names are asked for.
    lost.watch()
    signals.add_farewell(lambda status: leave(status, "it was told to end at once"))
    client.key_value_set(f"lodos/name/{own}", socket.gethostname())
    for host in names:
        names[host] = _hearing_signals(
            functools.partial(client.blocking_key_value_get, f"lodos/name/{host}", _NAMES_SECONDS * 1000)
        )
    if own != 0:
        logging.getLogger("lodos").setLevel(logging.WARNING)  # the first speaks for all
    logger.info("All %d hosts are there.", number)


def wait(what: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Returns when every host has come here.

    Args:
        what: that is waited for, the same on all hosts and for nothing else.

    Raises:
        HostsError: naming the hosts that did not come in time.
    """
    if _job is None:
        return
    _job.client.key_value_set(f"lodos/at/{what}/{index()}", "", allow_overwrite=True)
    try:
        _hearing_signals(functools.partial(_job.client.wait_at_barrier, f"lodos/{what}", int(seconds * 1000)))
    except jax.errors.JaxRuntimeError:
        came = {int(key.rsplit("/", 1)[1]) for key, _ in _job.client.key_value_dir_get(f"lodos/at/{what}/")}
        missing = [host for host in range(count()) if host not in came]
        raise HostsError(f"{what}: {_listed(missing) or 'a host'} did not come within {seconds:g} s.") from None


def same(what: str, values: Mapping[str, str]) -> None:
    """Compares values by name on all hosts.

    Raises:
        UserError: on every host, naming two hosts and what each has, for each value that differs.
    """
    if _job is None:
        return
    of_hosts = [json.loads(text) for text in _exchanged(what, json.dumps(dict(values)))]
    problems = []
    for key in dict.fromkeys(key for of_host in of_hosts for key in of_host):
        first = of_hosts[0].get(key)
        if others := [host for host, of_host in enumerate(of_hosts) if of_host.get(key) != first]:
            more = f", and so {_listed(others[1:])}" if len(others) > 1 else ""
            problems.append(
                f"{key}: {name(0)} has {first}, {name(others[0])} has {of_hosts[others[0]].get(key)}{more}."
            )
    if problems:
        raise UserError(f"The hosts do not agree ({what}):\n  " + "\n  ".join(problems))


def least(what: str, number: int) -> int:
    """The smallest of the numbers that the hosts have."""
    return number if _job is None else min(map(int, _exchanged(what, str(number))))


def from_first(what: str, make: Callable[[], str], *, seconds: float = WAIT_SECONDS) -> str:
    """What `make` gives on the first host, which alone calls it.

    Raises:
        HostsError: when the first host has not said it in time.
    """
    if _job is None:
        return make()
    key = f"lodos/first/{what}"
    if is_first():
        value = make()
        _job.client.key_value_set(key, value, allow_overwrite=True)
        return value
    try:
        return _hearing_signals(functools.partial(_job.client.blocking_key_value_get, key, int(seconds * 1000)))
    except jax.errors.JaxRuntimeError:
        raise HostsError(f"{what}: {name(0)} did not say it within {seconds:g} s.") from None


def first_then_others(what: str, do: Callable[[], Any], *, folder: "Path | UPath", seconds: float = 24 * 3600) -> Any:
    """`do()`, which keeps in a folder what it has done: where hosts share the folder, the first one does it for all."""
    if _job is None or not is_shared(what, folder):
        return do()
    if is_first():
        done = do()
        wait(what, seconds=seconds)
        return done
    wait(what, seconds=seconds)
    return do()


def is_shared(what: str, folder: "Path | UPath") -> bool:
    """Whether all hosts see the same folder, which is made. `what` names it, the same on all hosts."""
    return not _blind(what, folder)


def _blind(what: str, folder: "Path | UPath") -> list[int]:
    """The hosts that do not see what the first one writes into this folder; a store all of them see."""
    if _job is None or not isinstance(folder, Path):
        return []

    def mark() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f".shared-{uuid.uuid4().hex}"
        path.touch()
        return path.name

    what = f"the folder of {what}"
    marked = folder / from_first(what, mark)
    # Of a network's disk, a listing made anew shows what another host has written.
    sees = marked.parent.is_dir() and marked.name in os.listdir(marked.parent)
    seen = _exchanged(what, str(sees))
    if is_first():
        marked.unlink(missing_ok=True)
    return [host for host, sees in enumerate(seen) if sees != "True"]


def refuse_unshared(setting: str, folder: "Path | UPath") -> None:
    """Several hosts write what they save into one folder.

    Raises:
        UserError: when it is each host's own.
    """
    if hosts := _blind(setting, folder):
        raise UserError(
            f"{setting}: {folder} is a folder of {name(0)} alone; {_listed(hosts)} does not see it. What several "
            "hosts save belongs together: give a folder on a disk that all of them share, or on a store."
        )


def finish() -> None:
    """The run is over on all hosts: returns when each has come here, and leaves the job.

    A signal that comes while they wait for each other ends all of them. Afterwards none is heard any more: one host
    would end by it, and the others as if nothing had been.
    """
    if _job is None or _job.is_finished:
        return
    wait("the end of the run", seconds=7 * 24 * 3600)
    signals.deaf()
    # A host that a signal took out of the wait, when the others had come already, does not come here: it has them end.
    wait("that it is heard of by all")
    _job.is_finished = True
    _job.lost.leaving()
    jax.distributed.shutdown()
    _job.lost.stop()


def leave(status: int, message: str) -> None:
    """Ends the process, and with it the job, unless this host is alone or the run is over: the others end likewise."""
    if _job is not None and not _job.is_finished:
        _job.lost.leave(status, message)


def await_lost_host(error: BaseException) -> None:
    """After an error of XLA: if another host's end was the cause, this ends the process as soon as that is known.

    Otherwise it returns, at once where the error has nothing to do with other hosts.
    """
    if _job is None or not re.search(r"gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|[Cc]onnection", str(error)):
        return
    _job.lost.wait()
    message = f"the connection between hosts failed: {str(error).splitlines()[0]}"
    print(f"error: {message}", file=sys.stderr)
    leave(TRY_AGAIN, message)


class HostsError(Exception):
    """Another host did not do its part: worth another try."""


def _found(config: DistributedConfig) -> tuple[str, int, int, Any] | None:
    """Address, number of hosts, which of them this is, and its devices; None for one alone."""
    address = config.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    number = _given(config.num_processes, "JAX_NUM_PROCESSES")
    own = _given(config.process_id, "JAX_PROCESS_ID")
    local: Any = config.local_device_ids
    if number == 1:
        return None
    if None in (address, number, own):
        try:
            address, number, own, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
                address, number, own, local, None, config.initialization_timeout
            )
        except (RuntimeError, KeyError, ValueError, OSError) as error:
            raise UserError(f"The cluster does not say how its hosts find each other: {error}") from None
    known = {"coordinator_address": address, "num_processes": number, "process_id": own}
    missing = [f"trainer.distributed.{setting}" for setting, value in known.items() if value is None]
    if len(missing) == len(known) or number == 1:
        return None
    if missing:
        raise UserError(f"{', '.join(missing)}: not given, and no cluster was found that says it. Give all three.")
    assert address is not None
    assert number is not None
    assert own is not None
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(
            f"distributed.coordinator_address: {address!r} must be an address and a port, as 10.0.0.1:8476."
        )
    if own >= number:
        raise UserError(f"distributed.process_id: {own} must be below num_processes, {number}.")
    return address, number, own, local


def _given(setting: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if setting is not None or text is None:
        return setting
    if not text.isdecimal():
        raise UserError(f"${variable}: {text!r} must be a number.")
    return int(text)


def _refuse_taken(address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"distributed.coordinator_address: port {port} of this host cannot be had: {error.strerror}."
            ) from None


@contextlib.contextmanager
def _registered_within(seconds: int) -> Iterator[None]:
    """Within it JAX's coordination service is made to give up waiting for hosts so soon; by itself it waits an hour."""
    make = _jax.get_distributed_runtime_service
    impatient = functools.partial(make, cluster_register_timeout=seconds)
    _jax.get_distributed_runtime_service = impatient
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service = make


def _exchanged(what: str, text: str) -> list[str]:
    """What each host says, in their order."""
    assert _job is not None
    key = f"lodos/said/{what}/"
    _job.client.key_value_set(f"{key}{index()}", text, allow_overwrite=True)
    wait(what)
    said = {int(host.rsplit("/", 1)[1]): value for host, value in _job.client.key_value_dir_get(key)}
    return [said[host] for host in range(count())]


def _hearing_signals(waits: Callable[[], T]) -> T:
    """`waits()`, which does not return to Python for as long as it waits, nor would a signal be heard meanwhile."""
    result: Future[T] = Future()

    def wait() -> None:
        try:
            result.set_result(waits())
        except BaseException as error:
            result.set_exception(error)

    # No pool: Python would wait for its threads at the end.
    threading.Thread(target=wait, daemon=True).start()
    return result.result()


def _listed(hosts: list[int]) -> str:
    names = [name(host) for host in hosts[:_SHOWN]]
    more = [f"{len(hosts) - _SHOWN} more"] if len(hosts) > _SHOWN else []
    return ", ".join([*names, *more])
