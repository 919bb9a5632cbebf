import subprocess
import sys

import jax
import numpy as np
import pytest

from lodos.train.memory import peak_memory


def test_the_peak_is_in_bytes_and_grows_with_what_is_held() -> None:
    whose, before = peak_memory()
    held = np.ones(before // 8 + 2**24)  # a peak of at least what was held before and as much again
    _, after = peak_memory()
    assert whose in ("process", "device")
    if whose == "process":
        assert 5e7 < before < 1e12
        assert after >= held.nbytes


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is the process that is measured on a CPU alone")
def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    held = np.ones(2**27)  # 1 GiB
    script = "from lodos.train.memory import peak_memory; print(peak_memory()[1])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 5e7 < int(done.stdout) < held.nbytes
