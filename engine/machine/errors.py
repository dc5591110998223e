"""What an error says about the machine: out of memory, graphics card lost, disk full.

torch is not loaded: its errors are recognised by type name and message.
"""

from __future__ import annotations

import errno
import os
import re

MEMORY_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "cublas_status_alloc_failed")
LOST_MESSAGES = (
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
DISK_FULL = {errno.ENOSPC, *({errno.EDQUOT} if hasattr(errno, "EDQUOT") else ())}
WINDOWS_DISK_FULL = (39, 112)
"""ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL."""
_OS_ERROR = re.compile(r"os error (\d+)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the graphics card or in the computer."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in MEMORY_MESSAGES)


def is_device_lost(error: BaseException) -> bool:
    """Whether the graphics card no longer works for this process: its driver was reset, or a kernel crashed.

    After such an error every further call fails, and nothing can be read from the card.
    """
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return type(error).__name__ == "AcceleratorError" or any(message in text for message in LOST_MESSAGES)


def is_disk_full(error: BaseException) -> bool:
    """Whether the system says that the disk, or this account's quota on it, is full."""
    if not isinstance(error, OSError):
        return False
    return error.errno in DISK_FULL or getattr(error, "winerror", None) in WINDOWS_DISK_FULL


def as_os_error(error: Exception) -> Exception:
    """Return the system error that safetensors or torch.save hides in the text of its own; else the error itself."""
    if isinstance(error, OSError):
        return error
    text = str(error)
    found = _OS_ERROR.search(text)
    if found is None:
        if "no space left" in text.lower():
            return OSError(errno.ENOSPC, text[:200])
        return OSError(errno.EIO, text[:200]) if "i/o error" in text.lower() else error
    code = int(found.group(1))
    if os.name == "nt" and code in WINDOWS_DISK_FULL:
        code = errno.ENOSPC
    return OSError(code, text[:200])
