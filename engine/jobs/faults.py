"""Messages for errors that end a job: for the ones that many users meet, and one for all others.

Loads no torch: errors of the graphics card are recognized by name and message.
"""

from __future__ import annotations

import errno
import traceback

from engine.jobs.snapshot import Failure
from engine.machine.errors import is_device_lost, is_disk_full, is_out_of_memory

ADVICE = (
    "Try again; training resumes from its last checkpoint. If it happens again, copy the report and send it to "
    "the project."
)


def error_chain(error: BaseException) -> list[BaseException]:
    """The error and the errors it came from, each once."""
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)
    return found


def lost_card_words(
    error: BaseException, left: str = "", then: str = "resume from the last checkpoint"
) -> tuple[str, str, str]:
    """What happened, why, and what to try, for an error for which ``is_device_lost`` is true.

    Args:
        left: a sentence about what is left of the work.
        then: what to do when the app runs again.
    """
    first = next(str(one) for one in error_chain(error) if is_device_lost(one)).split("\n")[0][:200]
    why = f"{first}. Its driver was reset or updated, it was unplugged or overheated, or it hung. {left}"
    return (
        "The graphics card stopped answering.",
        why.strip(),
        f"Close the app and start it again, then {then}. If it happens again: update the driver, undo overclocking, "
        "let the card cool, and lower the settings that fill its memory.",
    )


def describe_crash(error: BaseException) -> Failure:
    """Build the failure panel's text for an exception that is not a UserError."""
    details = "".join(traceback.format_exception(error))
    first_line = str(error).split("\n")[0][:300]
    if any(is_device_lost(one) for one in error_chain(error)):
        return Failure(*lost_card_words(error), details)
    if is_out_of_memory(error):
        return Failure(
            "The job stopped because memory ran out.",
            first_line or "The computer has run out of memory.",
            "Close other programs. A training run can be resumed with less memory, for example with smaller batches "
            "(Resume with other settings, on the Train tab).",
            details,
        )
    if isinstance(error, OSError):
        return _describe_os_error(error, details)
    if isinstance(error, ImportError):
        return Failure(
            "A part of the installation is missing or has the wrong version.",
            f"{type(error).__name__}: {first_line}",
            "Run the installer again with --repair.",
            details,
        )
    return _unexpected(error, details)


def _describe_os_error(error: OSError, details: str) -> Failure:
    which = f"{error.filename}" if error.filename else "A file"
    if is_disk_full(error):
        return Failure(
            "The job stopped because the disk is full.",
            f"{which} could not be written.",
            "Free some space and resume; the last checkpoint is complete.",
            details,
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return Failure(
            "The job stopped because it was denied access to a file.",
            f"{which}: {error.strerror or error}.",
            "Another program (a virus scanner, a sync tool, an open viewer) may be using it, or the folder is "
            "read-only. Close that program, or choose another workspace, and try again.",
            details,
        )
    if error.errno in (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE) or isinstance(error, FileNotFoundError):
        return Failure(
            "The job stopped because a file or a disk is missing.",
            f"{which}: {error.strerror or error}.",
            "Check that the disk is connected and the file is where it was, then try again.",
            details,
        )
    return _unexpected(error, details)


def _unexpected(error: BaseException, details: str) -> Failure:
    return Failure(
        "The job stopped because of an unexpected error.",
        f"{type(error).__name__}: {error}"[:500],
        ADVICE,
        details,
    )
