"""Other processes that work on chunks, with the results in the order of the chunks.

Each worker is a fresh Python that is told what to do over a pipe:

    main  ->  work, chunk, chunk, ...        pickled, to the worker's standard input
    main  <-  result, result, ...            pickled, from its standard output

`multiprocessing` would run the user's main module again in each worker: a script that imports JAX at its top would
take the accelerator once for each of them, and one without `if __name__ == "__main__"` would never start. Here a
worker imports what unpickling the work needs and nothing else. It ends when its input does, hence also when the main
process is killed.

Knows nothing of rows or tokens.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO, Generic, TypeVar

from lodos.errors import UserError

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

CHUNKS_AHEAD = 2
"""Chunks for each worker that are read before their results are asked for: none waits, and few are held."""

MOST_WORKERS = 16
"""One process reads the rows and writes the tokens, and feeds no more than so many."""

_BOOTSTRAP = "import sys; sys.path[:] = {path!r}; from lodos.data.tokens.workers import serve; serve()"


def core_count() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerDiedError(UserError):
    """A worker ended before it had answered; the text says how."""


class Workers(Generic[Chunk, Result]):
    """Processes that apply one function to many chunks; a context manager, which ends them."""

    def __init__(self, work: Callable[[Chunk], Result], count: int):
        """
        Args:
            work: can be pickled; sent to each worker once.
        """
        pickled = pickle.dumps(work, pickle.HIGHEST_PROTOCOL)
        self._workers = [_Worker(pickled) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # A thread for each worker, which waits on its pipes; one thread for all could fill a pipe that nobody reads.
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="lodos-data")

    def __enter__(self) -> "Workers[Chunk, Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def map(self, chunks: Iterable[Chunk]) -> Iterator[Result]:
        """The results in the order of the chunks, which are read only a few ahead.

        Raises:
            WorkerDiedError: when a worker was killed. What the work raises in a worker is raised here.
        """
        pending: deque[Future[Result]] = deque()
        for chunk in chunks:
            pending.append(self._threads.submit(self._ask, chunk))
            if len(pending) > CHUNKS_AHEAD * len(self._workers):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _ask(self, chunk: Chunk) -> Result:
        worker = self._idle.get()
        try:
            return worker.ask(chunk)
        finally:
            self._idle.put(worker)


class _Worker:
    """The main process's end of one worker."""

    def __init__(self, pickled_work: bytes):
        # Workers share the cores; each of them using all of them again would only get in the others' way.
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._pickled_work: bytes | None = pickled_work

    def ask(self, chunk: Any) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if self._pickled_work is not None:
                process.stdin.write(self._pickled_work)
                self._pickled_work = None
            pickle.dump(chunk, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            answer, error = pickle.load(process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            raise WorkerDiedError(_how_it_ended(process.wait())) from None
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        self._process.kill()  # it holds nothing that is worth a farewell
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # closing writes what it has not read
                pipe.close()


def _how_it_ended(code: int) -> str:
    cause = f"signal {-code}" if code < 0 else f"exit code {code}"
    hint = " It was probably out of memory; free some and start again." if code == -9 else " What it wrote is above."
    return f"A process that prepared data ended with {cause}.{hint}"


def serve() -> None:
    """A worker's life: the work, then chunk by chunk."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the main process ends the others
    chunks: BinaryIO = sys.stdin.buffer
    results: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the results
    try:
        work = pickle.load(chunks)
        while True:
            _answer(results, work, pickle.load(chunks))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the main process is gone, or done


def _answer(results: BinaryIO, work: Callable[[Any], Any], chunk: Any) -> None:
    try:
        answer = (work(chunk), None)
    except Exception as error:
        error.add_note("In a process that prepared data:\n" + "".join(traceback.format_exception(error)))
        answer = (None, error)
    pickle.dump(answer, results, pickle.HIGHEST_PROTOCOL)
    results.flush()
