"""How the environment of a torch process is tuned. Nothing else of it is changed.

`glibc.malloc.*` (glibc 2.35 or newer):

    mmap_threshold=4 GiB    big blocks are taken from the heap too, not mapped anew each time and given back: every
                            gigabyte of them costs a quarter of a million page faults
    trim_threshold=1 TiB    the heap is never given back
    top_pad=64 MiB          and it grows by so much at once
    hugetlb=1               it asks for transparent huge pages (madvise), where the system allows them

`OMP_NUM_THREADS` is the number of cores. torch's own `THP_MEM_ALLOC_ENABLE=1` was tried on top, without gain.
"""

from lodos.data.tokens.workers import core_count

MALLOC = {
    "mmap_threshold": str(4 << 30),
    "trim_threshold": str(1 << 40),
    "top_pad": str(64 << 20),
    "hugetlb": "1",
}


def tuned_for_torch() -> dict[str, str]:
    """Variables for a tuned torch process."""
    return {
        "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items()),
        "OMP_NUM_THREADS": str(core_count()),
    }
