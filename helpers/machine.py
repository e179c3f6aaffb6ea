"""What this machine can do: where to compute, how fast, and how much memory there is to use."""

import ctypes
import platform
import sys
import time
from pathlib import Path

import psutil
import torch

CGROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# With less than this, nothing is kept in memory twice (bytes).
LOW_MEMORY = 4_000_000_000
_GLIBC = platform.libc_ver()[0] == "glibc"


def matrix_speed(
    seconds: float = 2.0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> float:
    """Speed of matrix multiplication on a device, in GFLOP/s, measured for so many seconds."""
    size = 1024
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    _ = (a @ b)[0, 0].item()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        _ = (a @ b)[0, 0].item()  # asked for a number, a GPU finishes first
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - begin) / 1e9


def best_device() -> torch.device:
    """Where to compute: on the GPU of NVIDIA or AMD, on Apple's, or on the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def native_precision(device: torch.device | str | None = None) -> str:
    """ "bfloat16" if the device multiplies 16-bit numbers in hardware, else "float32".

    device: best_device() if it is not given. A processor needs AVX-512's or AMX's instructions,
    a GPU compute capability 8.0 (Ampere). Without them the same multiplication may be a hundred
    times slower. Asked of the device and not measured: a machine that happens to be busy must not
    train with other numbers. torch.cuda.is_bf16_supported() is no answer: it also says yes where
    the numbers are only emulated.
    """
    device = torch.device(device or best_device())
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    if device.type != "cpu":
        return "float32"
    has = torch.cpu.get_capabilities()
    return "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"


def usable_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less where a limit is set.

    The limit is that of the control group (containers, Binder), of either version, or of the
    process itself (ulimit). What other programs use of it is not counted.
    """
    limits = [psutil.virtual_memory().total]
    for folder in _control_groups():
        for file in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((folder / file).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    if sys.platform != "win32":
        import resource

        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            limit = resource.getrlimit(kind)[0]
            if limit != resource.RLIM_INFINITY:
                limits.append(limit)
    return min(limits)


def memory_is_short() -> bool:
    """Whether this process may use less than LOW_MEMORY."""
    return usable_memory() < LOW_MEMORY


def _control_groups() -> list[Path]:
    """Where limits on memory stand: a container shows its own at the top, a service or a job its
    own in a folder below, or in one between."""
    folders = [CGROUPS, CGROUPS / "memory"]
    own = OWN_GROUPS.read_text(encoding="utf-8") if OWN_GROUPS.exists() else ""
    for line in own.splitlines():
        _, kind, path = line.split(":", 2)
        if kind in ("", "memory"):  # of version 2, of version 1
            own = CGROUPS / kind / path.lstrip("/")  # a limit above it counts as well
            folders += [own, *(one for one in own.parents if one.is_relative_to(CGROUPS))]
    return folders


def peak_memory() -> int:
    """Most resident memory that this process has had so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":
        # Not ru_maxrss: a new program takes that over from the process that started it.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def give_memory_back() -> None:
    """Let freed memory go back to the system now.

    The C library of Linux keeps it otherwise, some hundred megabytes after a backward pass, for
    later use. Other systems have other ways, and there nothing is done.
    """
    if _GLIBC:
        ctypes.CDLL(None).malloc_trim(0)
