"""Errors of the device: out of memory, or lost. torch is not loaded: its errors are known by name and message."""

from __future__ import annotations

MEMORY_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "cublas_status_alloc_failed")
LOST_SIGNS = (
    "cuda error",
    "cuda driver error",
    "cublas_status_execution_failed",
    "cublas_status_internal_error",
    "cudnn_status_execution_failed",
    "cudnn_status_internal_error",
    "nvml",
    "gpu is lost",
    "device-side assert",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a card or in the computer."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in MEMORY_SIGNS)


def device_lost(error: BaseException) -> bool:
    """Whether the graphics card no longer answers this process: its driver was reset, or a kernel broke.

    After such an error every further call fails, and nothing can be read from the card any more.
    """
    if out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return type(error).__name__ == "AcceleratorError" or any(sign in text for sign in LOST_SIGNS)
