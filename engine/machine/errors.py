"""What an error says about the machine: out of memory, graphics card lost, disk full.

Errors of torch are recognized by type name and message. Some messages of cuBLAS and cuDNN mean either a full card or a
lost one: then the card itself is asked (``ask_card``). torch is not loaded for any of it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import Literal

CardAnswer = Literal["works", "full", "lost"]
Cause = Literal["memory", "card", ""]

MEMORY_MESSAGES = (
    "out of memory",
    "out_of_memory",
    "not enough memory",
    "can't allocate memory",
    "cudnn_status_alloc_failed",
    "cudnn_status_not_initialized",  # cudnnCreate allocates
    "ur_result_error_out_of_device_memory",  # Intel's, as the next: pytorch issues 177714 and 190972
    "ur_result_error_out_of_host_memory",
    "unable to find an engine to execute this computation",  # "GET was" and "FIND was ...": no workspace fits
    "unable to find a valid cudnn algorithm",
)
"""What torch and cuDNN say when an allocation failed."""
UNCLEAR_MESSAGES = (
    "blas_status_not_initialized",  # of cuBLAS, hipBLAS and rocBLAS
    "blas_status_alloc_failed",
    "blas_status_internal_error",
    "blas_status_execution_failed",
    "cudnn_status_internal_error",  # also ..._DEVICE_ALLOCATION_FAILED
    "cudnn_status_execution_failed",
    "ur_result_error_out_of_resources",
)
"""What the libraries say both when they cannot allocate and when the card is lost."""
ALLOCATION_WORDS = ("alloc_failed", "allocation_failed", "out_of_resources")
LOST_MESSAGES = (
    *("cuda error", "cuda driver error", "hip error", "nvml", "gpu is lost", "device-side assert"),
    "level_zero backend failed",  # Intel's: with UR_RESULT_ERROR_DEVICE_LOST or UNKNOWN
)
"""What is said when the card is lost, and also of other errors of a call."""
NEARLY_FULL_BYTES = 512 * 2**20
NEARLY_FULL_SHARE = 0.05
"""A card is nearly full if less is free than either of these: a library's handle and its kernels take up to that."""
DISK_FULL = {errno.ENOSPC, *({errno.EDQUOT} if hasattr(errno, "EDQUOT") else ())}
WINDOWS_DISK_FULL = (39, 112)
"""ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL."""
_SIZE = r"([\d.]+) ?(bytes|kib|mib|gib)"
_TRIED, _FREE = re.compile(rf"tried to allocate {_SIZE}"), re.compile(rf"of which {_SIZE} is free")
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_OS_ERROR = re.compile(r"os error (\d+)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the graphics card or in the computer."""
    return cause_of(error) == "memory"


def is_device_lost(error: BaseException) -> bool:
    """Whether the graphics card no longer works for this process: its driver was reset, or a kernel crashed.

    After such an error every further call fails, and nothing can be read from the card.
    """
    return cause_of(error) == "card"


def is_of_machine(error: BaseException) -> bool:
    """Whether an error is the machine's (memory ran out, or the card is lost), and not of what was being read or done.

    Code that takes any error for a damaged file lets these pass.
    """
    return cause_of(error) != ""


def cause_of(error: BaseException) -> Cause:
    """Which part of the machine an error comes from: "memory", a lost "card", or "" for any other error.

    A card counts as lost only if it does not answer. It is asked once for each error, since memory may be freed, or
    another program started, between two questions about the same one.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "memory"
    if not isinstance(error, RuntimeError):
        return ""
    known: Cause | None = getattr(error, "machine_cause", None)
    if known is None:
        known = error.machine_cause = _cause_of_message(error)  # type: ignore[attr-defined]
    return known


def _cause_of_message(error: RuntimeError) -> Cause:
    text = str(error).lower()
    if any(message in text for message in MEMORY_MESSAGES):
        return "memory"
    unclear = any(message in text for message in UNCLEAR_MESSAGES)
    if not (unclear or type(error).__name__ == "AcceleratorError" or any(message in text for message in LOST_MESSAGES)):
        return ""
    answer = ask_card()
    if answer == "lost":
        return "card"
    full = answer == "full" or any(word in text for word in ALLOCATION_WORDS)
    return "memory" if unclear and full else ""


def missing_bytes(message: str) -> float:
    """Bytes that a failed allocation lacked, by torch's message; 0 if it does not tell.

    That is a lower bound of what the work lacks: other allocations would have followed.
    """
    tried, free = _TRIED.search(message.lower()), _FREE.search(message.lower())
    if tried is None:
        return 0.0
    wanted, there = (float(found[1]) * _UNITS[found[2]] if found else 0.0 for found in (tried, free))
    return max(0.0, wanted - there)


def ask_card() -> CardAnswer:
    """Ask the graphics card that this thread uses: it "works", it works and is nearly "full", or it is "lost".

    A kernel over one number is run. A card that cannot take that number for lack of memory is full, not lost; one that
    torch no longer finds, or that was never used, is lost.
    """
    if "torch" not in sys.modules:
        return "lost"
    import torch

    from engine.machine.device import free_and_total, is_card, torch_device

    card = torch_device()
    if not is_card(card):
        return "lost"
    try:
        free, total = free_and_total()
        (torch.ones(1, device=card) + 1).item()  # waits for the kernel
    except RuntimeError as error:
        return "full" if any(message in str(error).lower() for message in MEMORY_MESSAGES) else "lost"
    return "full" if free < max(NEARLY_FULL_BYTES, NEARLY_FULL_SHARE * total) else "works"


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
