"""What fits: recognizing out-of-memory, and how much a run has used at its peak."""

import resource
import sys
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that memory ran out, on the GPU or on the host.

    CUDA raises its own class; the CPU allocator raises a plain RuntimeError, known only by its
    text; numpy and Python raise MemoryError.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        type(error) is RuntimeError and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def reset_peak(device: torch.device) -> None:
    """Start a new peak: a process may train one run after another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # Linux: resets VmHWM (man 5 proc)


def peak_bytes(device: torch.device) -> int:
    """Largest memory since `reset_peak`: allocated on the GPU, or resident on the host."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
