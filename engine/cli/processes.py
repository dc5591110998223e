"""Commands of the command line that several processes do together: one speaks, all end together."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from engine.cli.output import Console
from engine.distributed import group, join
from engine.errors import UserError

SHARED = ("train", "resume", "extract")


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="share the work among N processes, one a graphics card"
    )


def together(options: argparse.Namespace, work: Callable[[], int]) -> int:
    """``work()``, after meeting the other processes where there are any; a fault here is told to them.

    Raises:
        UserError: the command is for one process, or the processes do not find one another.
    """
    count = group.started()
    if count > 1 and options.command not in SHARED:
        raise UserError(
            f"{options.command} is done by one process.",
            f"{count} were started; only {', '.join(SHARED)} are shared among several.",
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


def first() -> bool:
    """Whether this is the process that speaks, as its launcher says."""
    return group.started() == 1 or os.environ.get("RANK", "0") == "0"


def speaks(error: BaseException) -> bool:
    """Whether this process tells people of an error: main does, and whoever has lost the others."""
    return first() or isinstance(error, group.ProcessLost)


def console() -> Console:
    """What main prints on; of the others nothing is seen."""
    return Console() if first() else Console(Path(os.devnull).open("w", encoding="utf-8"))
