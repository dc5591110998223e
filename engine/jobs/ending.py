"""How a piece of work ended, with words for what went wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from engine.errors import UserError
from engine.jobs.control import Cancelled
from engine.jobs.snapshot import Failure, Outcome


def attempt(work: Callable[[], Outcome]) -> tuple[Outcome, Failure | None]:
    """Do it; whatever it raises becomes an outcome, and a failure that people get to see."""
    try:
        return work(), None
    except Cancelled:
        return "cancelled", None
    except UserError as error:
        return "failed", Failure(error.what, error.why, error.try_this, traceback.format_exc())
    except BaseException as error:  # the thread's last line of defence: whatever it is, people get to see it
        return "failed", describe_crash(error)


def describe_crash(error: BaseException) -> Failure:
    """Words for an exception that nobody foresaw, and for the few that everybody meets."""
    details = "".join(traceback.format_exception(error))
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "not enough memory" in text.lower():
        return Failure(
            "The work ended because memory ran out.",
            text.split("\n")[0][:300] or "The computer has no memory left.",
            "Choose a preset for a smaller card, or a smaller batch size, and resume.",
            details,
        )
    if isinstance(error, OSError) and error.errno == 28:
        return Failure(
            "The work ended because the disk is full.",
            f"{error.filename or 'A file'} could not be written.",
            "Free some space and resume; the last checkpoint is whole.",
            details,
        )
    return Failure(
        "The work ended with an error that this app did not foresee.",
        f"{type(error).__name__}: {text}"[:500],
        "Try again; a training resumes from its last checkpoint. If it happens again, copy the report and send it to "
        "the project.",
        details,
    )
