"""What a user sees: a run's live view on a pseudo-terminal of each width, as a terminal emulator draws it."""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pyte
import pytest

# Tells a ConsoleTracker what it is told on a pipe, and answers on another when it is done and drawn.
PROGRAM = """
import json, logging, os, sys, time
from lodos.cli import set_logging
from lodos.formats.progress import progress_bar
from lodos.tracking.console import ConsoleTracker
set_logging()
told, done = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w", buffering=1)
tracker = None
for line in told:
    match json.loads(line):
        case ["start", total]:
            tracker = ConsoleTracker(total)
        case ["log", step, metrics]:
            tracker.log(metrics, step=step)
        case ["warn", text]:
            logging.getLogger("lodos.x").warning(text)
        case ["summary", facts]:
            tracker.log_summary(facts)
        case ["load", name, total]:
            with progress_bar(name, total, enabled=True) as advance:
                for _ in range(total - 1):
                    advance()
                time.sleep(0.3)  # until it is drawn
                done.write("nearly\\n")
                told.readline()
        case ["tokenize", rows]:
            from lodos.data.prepare import _progress_bar
            with _progress_bar(enabled=True) as advance:
                for _ in range(4):
                    advance(rows // 4)
                    time.sleep(0.1)
                done.write("nearly\\n")
                told.readline()
        case ["finish"]:
            tracker.finish()
    done.write("done\\n")
"""
METRICS = {
    "train/loss": 2.3456,
    "train/learning_rate": 3e-4,
    "train/tokens_per_second": 12345.6,
    "train/trained_tokens_per_second": 2345.6,
    "train/step_seconds": 1.0,
    "train/data_wait_seconds": 0.5,
    "eval/loss": 1.9876,
}
SHOWN = ["2.3456", "3.00e-04", "12,346", "(2,346", "0.50", "1.00", "1.9876"]


class Terminal:
    """A pseudo-terminal with a program in it, and the screen that its user sees."""

    def __init__(self, columns: int):
        self.screen = pyte.HistoryScreen(columns, 24)
        self.stream = pyte.ByteStream(self.screen)
        self.master, slave = os.openpty()
        self._size(columns)
        told, self.tell = os.pipe()
        self.done, done = os.pipe()
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(told), str(done)],
            stdin=slave, stdout=slave, stderr=slave, pass_fds=(told, done), env=environment, start_new_session=True,
        )  # fmt: skip
        for end in (slave, told, done):
            os.close(end)

    def _size(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def resize(self, columns: int) -> None:
        self._size(columns)
        self.screen.resize(24, columns)
        self.process.send_signal(signal.SIGWINCH)

    def send(self, *message: Any) -> list[str]:
        """The screen, without empty lines, when the program has done what it is told."""
        os.write(self.tell, (json.dumps(message) + "\n").encode())
        while not select.select([self.done], [], [], 0.01)[0]:
            self._draw()
            assert self.process.poll() is None
        assert os.read(self.done, 100)
        for _ in range(5):
            time.sleep(0.01)
            self._draw()
        return self.lines()

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def _draw(self) -> None:
        while select.select([self.master], [], [], 0)[0]:
            try:
                self.stream.feed(os.read(self.master, 65536))
            except OSError:  # the program has gone
                return

    def close(self) -> None:
        os.close(self.tell)
        assert self.process.wait(timeout=30) == 0
        os.close(self.master)
        os.close(self.done)


@pytest.fixture
def open_terminal() -> Iterator[Any]:
    terminals: list[Terminal] = []

    def start(columns: int) -> Terminal:
        terminals.append(Terminal(columns))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def whole(line: str, *more: str) -> bool:
    """Whether each word with a digit in it is one of the numbers as they were meant."""
    return all(word in {*SHOWN, *more} for word in line.split() if re.search(r"\d", word))


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_the_live_view_at_each_width(columns: int, open_terminal: Any) -> None:
    terminal = open_terminal(columns)
    (line,) = terminal.send("start", 12_345)
    assert "0/12345" in line
    assert "compiling" in line
    for step in (7, 8, 9, 10):
        lines = terminal.send("log", step, METRICS)
    live = lines[-1]
    assert "compiling" not in live
    assert "10/12345" in live
    assert "━" in live
    left = re.search(r"\d:\d\d:\d\d", live)
    assert left is not None
    assert "loss 2.3456" in live
    assert whole(live, left.group(), "10/12345", "12345")
    assert sum("loss 2.3456" in line for line in lines) == 1  # drawn in place
    assert all(len(line) <= columns for line in lines)
    # The rest as there is room.
    assert ("12,346 tokens/s (2,346 trained)" in live) == (columns == 200)
    assert ("smoothed" in live) == (columns >= 80)
    # The held-out losses stand above it, ended between numbers.
    text = "\n".join(lines[:-1])
    assert len(re.findall(r"held-out loss 1\.9876", text)) == 4
    assert len(re.findall(r"\(best 1\.9876 at step 7\)", text)) == 4

    lines = terminal.send("warn", "what is said meanwhile stands above the line, and the numbers 1.9876 are whole")
    assert "loss 2.3456" in lines[-1]
    assert all(whole(line, left.group(), "10/12345", "12345", "7)") or "/12345" in line for line in lines)
    terminal.send("finish")


def test_huge_runs_at_sixty_columns(open_terminal: Any) -> None:
    terminal = open_terminal(60)
    terminal.send("start", 100_000_000)
    for step in (12_345_677, 12_345_678):
        lines = terminal.send("log", step, {**METRICS, "train/loss": 1e30})
    assert "12345678/100000000" in lines[-1]
    assert "1.0000e+30" in lines[-1]
    assert re.search(r"\d+:\d\d:\d\d", lines[-1])
    terminal.send("finish")


def test_a_resize_in_mid_run(open_terminal: Any) -> None:
    terminal = open_terminal(120)
    terminal.send("start", 500)
    terminal.send("log", 1, METRICS)
    assert "lr 3.00e-04" in terminal.send("log", 2, METRICS)[-1]
    terminal.resize(60)
    lines = terminal.send("log", 3, METRICS)
    assert re.fullmatch(r"step   3/500 [━╸╺]+ \d:\d\d:\d\d left  loss 2\.3456", lines[-1])
    terminal.resize(120)
    assert "lr 3.00e-04" in terminal.send("log", 4, METRICS)[-1]
    terminal.send("finish")


def test_the_summary_breaks_between_words(open_terminal: Any) -> None:
    terminal = open_terminal(60)
    terminal.send("start", 100)
    facts = dict(run="a-run-of-mine", parameters=134_515_008, trainable_parameters=2_442_240, held_out_rows=56)
    facts |= dict(training_rows=1234, steps=100, resumed_from_step=0, batch_efficiency=0.987)
    lines = terminal.send("summary", facts)
    assert re.sub(r"\s+", " ", " ".join(lines[:-1])).startswith(
        "Run a-run-of-mine: 2,442,240 trainable parameters beside 134,515,008 (1.82 %), 1,234 training"
    )
    terminal.send("finish")


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("name", ["Loading weights", "Writing merged model"])
def test_bars_of_reading_and_writing(columns: int, name: str, open_terminal: Any) -> None:
    terminal = open_terminal(columns)
    (line,) = terminal.send("load", name, 50)
    assert line.startswith(name)
    assert "━" in line
    assert "98%" in line
    assert "…" not in line
    terminal.send("on")


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_the_bar_of_tokenizing(columns: int, open_terminal: Any) -> None:
    terminal = open_terminal(columns)
    (line,) = terminal.send("tokenize", 123_456_788)
    assert "Tokenizing 123,456,788 rows" in line
    assert re.search(r"\d:\d\d:\d\d$", line)
    assert bool(re.search(r" [\d,]+ rows/s ", line)) == (columns >= 60)
    assert "…" not in line
    terminal.send("on")
