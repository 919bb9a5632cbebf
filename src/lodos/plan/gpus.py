"""GPUs that a job can be compiled for without having one, as the CUDA compiler wants them described.

What all cards of an architecture share is from the CUDA C++ Programming Guide, "Technical Specifications per Compute
Capability". Peaks are those of dense products in bfloat16, half of what data sheets print with sparsity. XLA's own
descriptions are those of openxla/xla in xla/backends/gpu/target_config/specs.
"""

import dataclasses
import re
from collections.abc import Sequence

from lodos.runtime import gpu_memory_share

CUDNN = (9, 12, 0)
"""The oldest cuDNN with which JAX's CUDA plugin is installed."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What all cards of a compute capability share. Sizes are in bytes."""

    compute_capability: tuple[int, int]
    threads_per_core: int
    """Of a streaming multiprocessor, which XLA calls a core."""
    fpus_per_core: int
    shared_memory_per_core: int

    @property
    def shared_memory_per_block(self) -> int:
        """The most that a block can ask for."""
        return self.shared_memory_per_core - 1024


AMPERE = Architecture((8, 0), 2048, 64, 164 << 10)
ADA = Architecture((8, 9), 1536, 128, 100 << 10)
HOPPER = Architecture((9, 0), 2048, 128, 228 << 10)
BLACKWELL = Architecture((10, 0), 2048, 128, 228 << 10)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A card."""

    name: str
    kind: str
    """As the driver calls it."""
    architecture: Architecture
    cores: int
    memory_bytes: int
    """As CUDA counts it, below what is printed on the card."""
    memory_bandwidth: float
    """Bytes a second."""
    l2_cache_bytes: int
    clock_ghz: float
    peak_flops: float
    """bfloat16 operations a second."""
    link_bytes: float
    """Bytes a second that come from the other cards of a host."""
    source: str

    def target_config(self) -> str:
        """XLA's `GpuTargetConfigProto`, as text."""
        shared = self.architecture
        major, minor = shared.compute_capability
        described = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 << 10,
            "shared_memory_per_block_optin": shared.shared_memory_per_block,
            "shared_memory_per_core": shared.shared_memory_per_core,
            "threads_per_core_limit": shared.threads_per_core,
            "core_count": self.cores,
            "fpus_per_core": shared.fpus_per_core,
            "block_dim_limit_x": (1 << 31) - 1,
            "block_dim_limit_y": (1 << 16) - 1,
            "block_dim_limit_z": (1 << 16) - 1,
            "thread_dim_limit_x": 1024,
            "thread_dim_limit_y": 1024,
            "thread_dim_limit_z": 64,
            "registers_per_core_limit": 1 << 16,
            "registers_per_block_limit": 1 << 16,
            "memory_bandwidth": int(self.memory_bandwidth),
            "l2_cache_size": self.l2_cache_bytes,
            "clock_rate_ghz": self.clock_ghz,
            "device_memory_size": self.memory_bytes,
            "cuda_compute_capability": f"{{ major: {major} minor: {minor} }}",
        }
        lines = [f"  {name}{'' if str(value).startswith('{') else ':'} {value}" for name, value in described.items()]
        version = "major: {} minor: {} patch: {}".format(*CUDNN)
        return "\n".join(
            [
                "gpu_device_info {",
                *lines,
                "}",
                'platform_name: "CUDA"',
                f"dnn_version_info {{ {version} }}",
                f'device_description_str: "{self.kind}"',
            ]
        )


_A100 = (
    "NVIDIA A100 Tensor Core GPU data sheet (2021): peak, NVLink 3 with 600 GB/s both ways; XLA's a100_sxm_{}: the rest"
)
_HOPPER = "data sheet (2024): peak, NVLink 4 with 900 GB/s both ways"

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "a100-40", "NVIDIA A100-SXM4-40GB", AMPERE, 108, 42331013120, 1555.2e9, 40 << 20, 1.41, 312e12, 300e9,
            _A100.format(40),
        ),
        Gpu(
            "a100-80", "NVIDIA A100-SXM4-80GB", AMPERE, 108, 85100068864, 2039.04e9, 40 << 20, 1.41, 312e12, 300e9,
            _A100.format(80),
        ),
        Gpu(
            "h100", "NVIDIA H100 80GB HBM3", HOPPER, 132, 84942979072, 3352.32e9, 50 << 20, 1.98, 989.4e12, 450e9,
            f"NVIDIA H100 SXM {_HOPPER}; XLA's h100_sxm: the rest",
        ),
        Gpu(
            "h200", "NVIDIA H200", HOPPER, 132, 143156 << 20, 4800e9, 60 << 20, 1.98, 989.4e12, 450e9,
            f"NVIDIA H200 SXM {_HOPPER}, bandwidth; memory and cache as PyTorch prints them; XLA's h200: the rest",
        ),
        Gpu(
            "b200", "NVIDIA B200", BLACKWELL, 148, 191514411008, 7672.32e9, 132644864, 1.965, 2250e12, 900e9,
            "NVIDIA HGX B200 data sheet (2024): peak, NVLink 5 with 1.8 TB/s both ways; XLA's b200: the rest",
        ),
        Gpu(
            "l4", "NVIDIA L4", ADA, 58, 22561 << 20, 300e9, 48 << 20, 2.04, 121e12, 32e9,
            "NVIDIA L4 data sheet (2023): peak, bandwidth, PCIe 4, 64 GB/s both ways; memory as PyTorch prints it",
        ),
        Gpu(
            "l40s", "NVIDIA L40S", ADA, 142, 45589 << 20, 864e9, 96 << 20, 2.52, 362.05e12, 32e9,
            "NVIDIA L40S data sheet (2023): peak, bandwidth, PCIe 4, 64 GB/s both ways; memory as PyTorch prints it",
        ),
        Gpu(
            "rtx4090", "NVIDIA GeForce RTX 4090", ADA, 128, 24563 << 20, 1008e9, 72 << 20, 2.52, 165.2e12, 32e9,
            "NVIDIA Ada GPU Architecture (2022): peak with float32 sums, bandwidth; memory as PyTorch prints it",
        ),
    )
}  # fmt: skip

_COUNTS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class GpuHost:
    """Cards of one kind in one host."""

    gpu: Gpu
    count: int
    extra = "cuda"
    compiler = "JAX's CUDA plugin"
    has_text = True
    is_tuned = False
    """What a card would tell about itself is not known: XLA measures kernels and takes the fastest."""

    @property
    def name(self) -> str:
        return self.gpu.name if self.count == 1 else f"{self.gpu.name}x{self.count}"

    @property
    def topology_name(self) -> str:
        """Partitions of the network, hosts of each, and cards of a host, as XLA has it."""
        return f"1x1x{self.count}"

    @property
    def memory_bytes(self) -> int:
        """What a run has of each card: JAX leaves a part to CUDA, cuDNN and NCCL, which take theirs on their own."""
        return int(self.gpu.memory_bytes * gpu_memory_share())

    @property
    def peak_flops(self) -> float:
        return self.gpu.peak_flops

    @property
    def link_bytes(self) -> float:
        return self.gpu.link_bytes


HOSTS = {host.name: host for host in (GpuHost(gpu, count) for gpu in GPUS.values() for count in _COUNTS)}


def hosts_of(name: str) -> Sequence[GpuHost]:
    """The hosts of a card that is named with any number, such as `h100x3`, or in part, such as `a100`."""
    card = re.sub(r"x\d+$", "", name)
    return [host for host in HOSTS.values() if host.gpu.name == card or host.gpu.name.startswith(f"{card}-")]
