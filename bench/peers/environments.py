"""How the environment of a torch process is tuned. Nothing else of it is changed.

`glibc.malloc.*` (glibc 2.35 or newer):

    mmap_max=0              big blocks are taken from the heap too, not mapped anew each time and given back: every
                            gigabyte of them costs a quarter of a million page faults
    trim_threshold          the heap is never given back
    top_pad                 and it grows by so much at once
    hugetlb=1               it asks for transparent huge pages (madvise), where the system allows them

`THP_MEM_ALLOC_ENABLE=1` has torch ask for huge pages too; `OMP_NUM_THREADS` is the number of cores.
"""

from lodos.data.tokens.workers import core_count

MALLOC = {
    "mmap_max": "0",
    "trim_threshold": str(1 << 40),
    "top_pad": str(256 << 20),
    "hugetlb": "1",
}


def tuned_for_torch() -> dict[str, str]:
    """Variables for a tuned torch process."""
    return {
        "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items()),
        "THP_MEM_ALLOC_ENABLE": "1",
        "OMP_NUM_THREADS": str(core_count()),
    }
