"""What fits: recognizing out-of-memory, and how much a run has used at its peak."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

_HOST = ("DefaultCPUAllocator: can't allocate memory", "could not create a primitive")
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that memory ran out, on the GPU or on the host.

    CUDA raises its own class and Python raises MemoryError. On the host torch raises plain
    RuntimeErrors, known only by their text: its allocator's, and oneDNN's when it cannot allocate
    what a convolution needs (tests/test_training_limits.py shows both for real).
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return type(error) is RuntimeError and any(text in str(error) for text in _HOST)


def release(device: torch.device) -> None:
    """Give back what a failed attempt has left behind, so that a smaller one finds it.

    On the host the heap keeps freed blocks, in pieces too small for what a convolution asks for
    at once; glibc gives their memory back when told.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


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
