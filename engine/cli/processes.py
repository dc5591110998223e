"""Commands that run in several processes: one of them prints, and all end together."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from engine.cli.output import EventPrinter
from engine.distributed import group, join
from engine.errors import UserError

SHARED = ("train", "resume", "extract")


def run_together(options: argparse.Namespace, work: Callable[[], int]) -> int:
    """Join the process group if there are several processes, then return ``work()``. An error here ends all of them.

    Raises:
        UserError: the command is for one process, or the processes cannot connect.
    """
    count = group.started()
    if count > 1 and options.command not in SHARED:
        raise UserError(
            f"{options.command} runs in one process.",
            f"{count} were started; only {', '.join(SHARED)} can run in several.",
            f"Start it with: python -m engine.cli {options.command}",
        )
    remarks = join.join()
    try:
        for remark in remarks:
            console().say(remark)
        return work()
    except Exception as error:
        group.current().abort_all(error)
        raise
    finally:
        join.leave()


def is_main() -> bool:
    """Whether this is the main process, by its launcher's environment variables."""
    return group.started() == 1 or os.environ.get("RANK", "0") == "0"


def prints_error(error: BaseException) -> bool:
    """Whether this process prints an error: only the main process does, and one that has lost the others."""
    return is_main() or isinstance(error, group.ProcessLost)


def console() -> EventPrinter:
    """The console of the main process; the others print nothing."""
    return EventPrinter() if is_main() else EventPrinter(Path(os.devnull).open("w", encoding="utf-8"))
