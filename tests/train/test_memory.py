import subprocess
import sys

import jax
import numpy as np
import pytest

HELD = 2**28


def test_the_peak_is_in_bytes_and_grows_with_what_is_held() -> None:
    # In a process of its own: that of the tests may have had a peak of gigabytes.
    whose, before, after = measured(
        f"before = peak_memory()\nheld = numpy.ones({HELD} // 8)\nprint(before[0], before[1], peak_memory()[1])"
    ).split()
    assert whose in ("process", "device")
    if whose == "process":
        assert 5e7 < int(before) < 2e9
        assert int(after) >= max(int(before), HELD)
        assert int(after) - int(before) > 0.5 * HELD


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is the process that is measured on a CPU alone")
def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    held = np.ones(2**27)  # 1 GiB
    assert 5e7 < int(measured("print(peak_memory()[1])")) < held.nbytes


def measured(script: str) -> str:
    """What a script prints in a process of its own."""
    script = f"import numpy\nfrom lodos.train.memory import peak_memory\n{script}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
