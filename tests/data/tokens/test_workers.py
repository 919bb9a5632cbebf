"""Results in order, errors and deaths told, and no library loaded that the work does not need."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lodos.data.tokens.workers import CHUNKS_AHEAD, WorkerDiedError, Workers
from lodos.errors import UserError

# The work must be importable in a fresh Python, so it is made of what Python brings.
square = partial(pow, exp=2)


def test_results_come_in_the_order_of_the_chunks() -> None:
    with Workers(time.sleep, 2) as workers:
        assert list(workers.map([0.2, 0, 0])) == [None, None, None]
    with Workers(square, 3) as workers:
        assert list(workers.map(range(50))) == [n * n for n in range(50)]
        assert list(workers.map([7])) == [49]  # and can be asked again
        assert list(workers.map([])) == []


def test_large_chunks_and_results_do_not_wait_for_each_other() -> None:
    with Workers(bytes, 2) as workers:
        chunks = [bytes([n]) * 5_000_000 for n in range(6)]
        assert list(workers.map(chunks)) == chunks


def test_chunks_are_read_only_a_few_ahead() -> None:
    read = 0

    def chunks() -> Iterator[int]:
        nonlocal read
        while read < 100:
            read += 1
            yield read

    with Workers(square, 2) as workers:
        for done, _ in enumerate(workers.map(chunks()), 1):
            assert read <= done + CHUNKS_AHEAD * 2


def test_an_error_in_the_work_is_raised_with_its_place() -> None:
    with Workers(int, 1) as workers, pytest.raises(ValueError, match="invalid literal") as error:
        list(workers.map(["1", "two", "3"]))
    assert "In a process that prepared data:" in error.value.__notes__[0]
    assert "Traceback" in error.value.__notes__[0]


def test_a_killed_worker_is_told_of() -> None:
    kill_itself = "__import__('os').kill(__import__('os').getpid(), 9)"
    with Workers(eval, 1) as workers, pytest.raises(WorkerDiedError, match=r"signal 9.*out of memory"):
        list(workers.map([kill_itself]))


def test_work_that_cannot_be_loaded_is_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(_only_here, 1) as workers, pytest.raises(WorkerDiedError, match="exit code 1"):
        list(workers.map([1]))
    assert "Error" in capfd.readouterr().err


def test_what_the_work_prints_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(print, 1) as workers:
        assert list(workers.map(["printed"])) == [None]
    assert "printed" in capfd.readouterr().err


def test_workers_end_with_the_block() -> None:
    with Workers(os.getppid().__add__, 2) as workers:
        processes = [worker._process for worker in workers._workers]
        list(workers.map([1]))
    assert all(process.returncode is not None for process in processes)


def test_a_main_module_is_not_run_again_and_jax_is_not_loaded(tmp_path: Path) -> None:
    # A user's script: it imports JAX at its top and has no `if __name__ == "__main__"`.
    script = tmp_path / "script.py"
    script.write_text(
        "import jax\n"
        "print('ran')\n"
        "from lodos.data.tokens.workers import Workers\n"
        "with Workers(eval, 1) as workers:\n"
        '    print(list(workers.map([\'"jax" in __import__("sys").modules\'])))\n'
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["ran", "[False]"]


def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "from functools import partial\n"
        "from lodos.data.tokens.workers import Workers\n"
        "workers = Workers(eval, 1)\n"
        "print(*workers.map(['__import__(\"os\").getpid()']), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert _ends(int(done.stdout))


def _ends(process_id: int) -> bool:
    for _ in range(100):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{process_id}/stat").read_text().split(")")[1].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def _only_here(chunk: object) -> Callable[[], None]:
    raise UserError("never reached: a worker cannot import this test")
