"""What errors say about the machine."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.families.parts import load_part
from engine.machine import errors
from engine.machine.errors import (
    as_os_error,
    cause_of,
    is_device_lost,
    is_disk_full,
    is_of_machine,
    is_out_of_memory,
    missing_bytes,
)


def on_windows(code: int) -> OSError:
    error = OSError(errno.EIO, "There is not enough space on the disk")
    error.winerror = code  # type: ignore[attr-defined, unused-ignore]
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (on_windows(112), True),
        (on_windows(39), True),
        (on_windows(5), False),
        (OSError(errno.EFBIG, "File too large"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (RuntimeError("No space left on device"), False),
    ],
)
def test_a_full_disk(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0: No space left on device", errno.ENOSPC),
        ("Error while serializing: I/O error: something", errno.EIO),
    ],
)
def test_the_system_s_error_is_taken_out_of_a_library_s(text: str, code: int) -> None:
    found = as_os_error(RuntimeError(text))
    assert isinstance(found, OSError) and found.errno == code
    assert is_disk_full(found) == (code == errno.ENOSPC)


def test_other_errors_are_returned_as_they_are() -> None:
    for error in (OSError(errno.EACCES, "os error 28"), RuntimeError("something else")):
        assert as_os_error(error) is error


@pytest.mark.parametrize(
    ("name", "answer", "cause"),
    [
        ("OUT_OF_DEVICE_MEMORY", "works", "memory"),
        ("OUT_OF_RESOURCES", "works", "memory"),
        ("OUT_OF_RESOURCES", "lost", "card"),
        ("DEVICE_LOST", "lost", "card"),
        ("DEVICE_LOST", "works", ""),
    ],
)
def test_what_intels_cards_say_is_understood(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: str, cause: str
) -> None:
    monkeypatch.setattr(errors, "ask_card", lambda: answer)
    assert cause_of(RuntimeError(f"level_zero backend failed with error: 20 (UR_RESULT_ERROR_{name})")) == cause


def test_a_lost_card_is_not_a_full_one() -> None:
    full, lost = RuntimeError("CUDA error: out of memory"), RuntimeError("CUDA error: device-side assert triggered")
    assert (is_out_of_memory(full), is_device_lost(full)) == (True, False)
    assert (is_out_of_memory(lost), is_device_lost(lost)) == (False, True)


LIBRARIES = {
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": ("memory", "memory", "memory"),
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED": ("memory", "memory", "memory"),
    "GET was unable to find an engine to execute this computation": ("memory", "memory", "memory"),
    "FIND was unable to find an engine to execute this computation": ("memory", "memory", "memory"),
    "Unable to find a valid cuDNN algorithm to run convolution": ("memory", "memory", "memory"),
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": ("memory", "", "card"),
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": ("memory", "memory", "card"),
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`": ("memory", "", "card"),
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR": ("memory", "", "card"),
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED": ("memory", "memory", "card"),
    "CUDA error: unspecified launch failure": ("", "", "card"),
    "CUDA error: device-side assert triggered": ("", "", "card"),
    "shapes cannot be multiplied": ("", "", ""),
}
"""What the libraries say, and the cause if the card is full, works, or is lost."""


@pytest.mark.answers("Out of memory")
@pytest.mark.parametrize("text", LIBRARIES)
def test_what_cublas_and_cudnn_say_is_understood_after_asking_the_card(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: tuple[errors.CardAnswer, ...] = ("full", "works", "lost")
    for answer, cause in zip(answers, LIBRARIES[text], strict=True):
        monkeypatch.setattr(errors, "ask_card", lambda answer=answer: answer)
        assert cause_of(RuntimeError(text)) == cause, answer
        found = RuntimeError(text)
        facts = (is_out_of_memory(found), is_device_lost(found), is_of_machine(found))
        assert facts == (cause == "memory", cause == "card", cause != "")
    monkeypatch.setattr(errors, "ask_card", lambda: "works")
    assert cause_of(found) == LIBRARIES[text][2], "an error is judged once"
    assert not is_of_machine(ValueError(text))


GIB = 2**30


@pytest.mark.parametrize(
    ("free", "total", "kernel", "answer"),
    [
        (5 * GIB, 8 * GIB, None, "works"),
        (GIB // 4, 8 * GIB, None, "full"),
        (GIB, 24 * GIB, None, "full"),
        (5 * GIB, 8 * GIB, RuntimeError("CUDA error: an illegal memory access was encountered"), "lost"),
        (0, 8 * GIB, RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB"), "full"),
    ],
)
def test_a_card_is_asked_by_its_free_memory_and_a_kernel(
    free: int, total: int, kernel: Exception | None, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ones(*_: Any, device: torch.device) -> torch.Tensor:
        if kernel is not None:
            raise kernel
        return torch.zeros(1) + 1

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (free, total))
    monkeypatch.setattr(torch, "ones", ones)
    assert errors.ask_card() == answer


def test_a_lack_of_memory_is_not_taken_for_a_damaged_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Part:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        load_part(Part, str(tmp_path), "unet", torch.float32)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("message", "lacked"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB of which "
            "512.00 MiB is free. Including non-PyTorch memory, this process has 7.2 GiB memory in use.",
            2 * GIB,
        ),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", 20 * 2**20),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes.", 8 * GIB),
        ("Tried to allocate 1.00 MiB. GPU 0 has a total capacity of 8 GiB of which 5.00 MiB is free.", 0),  # in pieces
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", 0),
    ],
)
def test_what_a_failed_allocation_lacked_is_read(message: str, lacked: float) -> None:
    assert missing_bytes(message) == lacked
