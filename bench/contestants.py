"""Contestants: processes that take turns.

Each is a process of its own that lives as long as the benchmark and does some work whenever it is asked, so that all
of them see the same machine at nearly the same time, and none sees another's allocator or threads. While one works,
the others are stopped (SIGSTOP): not even a thread that waits by spinning takes anything from it.

    benchmark  ->  {"steps": 2}                        one JSON object a line, to its standard input
    benchmark  <-  {"seconds": 9.1, "losses": [...]}   one line, from its standard output

Two that have each taken most of the memory may not fit beside each other, so one whose turn is over gives back what it
has freed (`rest`): allocators that are told to keep it would not. Its next turn should begin with a step that is not
timed.

What runs in the process is a function `peer(channel, **settings)`, which sends once when it is ready and then answers
each request.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from bench.measure import die_first, die_with_parent, give_back_freed_memory, peak_resident

LAST_WORDS = 3000
"""Characters of standard error that are shown of a contestant that failed."""


class ContestantFailedError(RuntimeError):
    """A contestant ended before it had answered; the text says how and what it wrote last."""

    def __init__(self, name: str, code: int, words: str):
        """
        Args:
            code: of its end, negative for a signal.
            words: what it wrote last.
        """
        killed = code == -signal.SIGKILL
        ending = "killed, probably for want of memory" if killed else f"exit status {code}"
        super().__init__(f"{name}: {ending}\n{words}".rstrip())
        self.cause = ending if killed or not words.strip() else words.strip().splitlines()[-1]
        """In a line."""


class Contestant:
    """The benchmark's end of one process; a context manager, which ends it."""

    def __init__(self, name: str, peer: str, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None):
        """
        Args:
            name: for people.
            peer: `module:function`.
            settings: keyword arguments of the function, which JSON can hold.
            environment: variables on top of the present ones.

        Raises:
            ContestantFailedError: when it does not become ready.
        """
        self.name = name
        self.facts: dict[str, Any] = {}
        """What it had to say when it was ready."""
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (open as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.contestants", peer, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            preexec_fn=die_with_parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})},
        )
        self.facts = self._answer()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def ask(self, **request: Any) -> dict[str, Any]:
        """Lets it work and waits for its answer.

        Raises:
            ContestantFailedError: when it ends instead.
        """
        assert self._process.stdin is not None
        os.kill(self._process.pid, signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        return self._answer()

    def rest(self) -> None:
        """Has it give back the memory that it has freed."""
        self.ask(rest=True)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._words.close()

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        os.kill(self._process.pid, signal.SIGSTOP)
        return json.loads(line)

    def _failed(self) -> ContestantFailedError:
        code = self._process.wait()
        self._words.seek(0)
        return ContestantFailedError(self.name, code, self._words.read()[-LAST_WORDS:])


class Channel:
    """The contestant's end: requests in, answers out."""

    def __init__(self, requests: TextIO, answers: TextIO):
        self._requests = requests
        self._answers = answers

    def send(self, **answer: Any) -> None:
        """Answers, and says how much memory it took so far at most."""
        self._answers.write(json.dumps({**answer, "peak_bytes": peak_resident()}) + "\n")
        self._answers.flush()

    def receive(self) -> dict[str, Any] | None:
        """The next request; None when there will be no more."""
        while line := self._requests.readline():
            request = json.loads(line)
            if "rest" not in request:
                return request
            give_back_freed_memory()
            self.send()
        return None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (request := self.receive()) is not None:
            yield request


def main() -> None:
    """A contestant's life."""
    die_first()
    peer, settings = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    module, function = peer.split(":")
    getattr(importlib.import_module(module), function)(Channel(sys.stdin, answers), **json.loads(settings))


if __name__ == "__main__":
    main()
