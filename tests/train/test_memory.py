import numpy as np

from lodos.train.memory import peak_memory


def test_the_peak_is_in_bytes_and_grows_with_what_is_held() -> None:
    whose, before = peak_memory()
    held = np.ones(before // 8 + 2**24)  # a peak of at least what was held before and as much again
    _, after = peak_memory()
    assert whose in ("process", "device")
    if whose == "process":
        assert 5e7 < before < 1e12
        assert after >= held.nbytes
