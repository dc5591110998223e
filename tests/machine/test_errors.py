"""What errors say about the machine."""

from __future__ import annotations

import errno

import pytest

from engine.machine.errors import as_os_error, is_device_lost, is_disk_full, is_out_of_memory


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


def test_a_lost_card_is_not_a_full_one() -> None:
    full, lost = RuntimeError("CUDA error: out of memory"), RuntimeError("CUDA error: device-side assert triggered")
    assert (is_out_of_memory(full), is_device_lost(full)) == (True, False)
    assert (is_out_of_memory(lost), is_device_lost(lost)) == (False, True)
