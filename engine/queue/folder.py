"""The queue's folder in the workspace. Its files are the only truth; nothing is kept in memory but their contents.

    queue/000002000-3fa9c1.json            a waiting job: its place, and its id
    queue/running-000001000-7be004.json    the one that runs now, or ran when its process was killed
    queue/results/20260501-221040-....json the result of a job; the last KEPT

Every change is one rename or one atomic write, so that a second process may add, move and remove at any time. Only the
process that holds the workspace's lock takes jobs out.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.disk.durable import atomic_write_text
from engine.disk.in_use import clear, rename
from engine.errors import UserError
from engine.queue.entries import (
    Entry,
    EntryOutcome,
    EntryState,
    Result,
    read_entry,
    read_result,
    write_entry,
    write_result,
)
from engine.workspace.paths import Workspace

KEPT = 20
"""How many results are kept."""
GAP = 1000
"""Between the positions of neighbours, so that one can be moved between two others by renaming it alone."""
_NAME = re.compile(r"(running-)?(\d+)-([0-9a-z]+)\.json")


class QueueFolder:
    """The waiting jobs and the results of a workspace. Any thread and any process may use it."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.root / "queue"
        self._results = self.folder / "results"
        self._read: dict[str, Entry] = {}
        self._read_results: dict[str, Result | None] = {}

    # -- what there is ------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """The running entry, then the waiting ones in their order. Each file is read once."""
        found = []
        for name, id, position, state in self._names():
            known = self._read.get(id)
            if known is None:
                try:
                    known = read_entry(self.folder / name, id, position, state)
                except FileNotFoundError:
                    continue  # taken or removed just now
            found.append(replace(known, position=position, state=state))
        self._read = {entry.id: entry for entry in found}
        return sorted(found, key=lambda entry: (entry.state == "waiting", entry.position, entry.id))

    def waiting(self) -> list[Entry]:
        """The waiting entries in their order."""
        return [entry for entry in self.entries() if entry.state == "waiting"]

    def running(self) -> Entry | None:
        """The entry that runs now or, before ``recover``, ran when its process was killed."""
        return next((entry for entry in self.entries() if entry.state == "running"), None)

    def results(self) -> list[Result]:
        """The results, newest first. Damaged files are left out."""
        names = self._result_names()[:KEPT]
        self._read_results = {
            name: self._read_results[name] if name in self._read_results else read_result(self._results / name)
            for name in names
        }
        return [result for result in self._read_results.values() if result is not None]

    def find(self, which: str) -> Entry:
        """The entry with this id, or at this place of the list, which counts from 1 and begins with the running one.

        Raises:
            UserError: there is none.
        """
        entries = self.entries()
        for entry in entries:
            if entry.id == which:
                return entry
        if which.isdecimal() and 1 <= int(which) <= len(entries):
            return entries[int(which) - 1]
        known = ", ".join(f"{number} ({entry.id})" for number, entry in enumerate(entries, 1)) or "none"
        raise UserError(f"The queue has no job {which}.", f"There are: {known}.", "Choose one of these.")

    # -- changes ------------------------------------------------------------------------------------------------------

    def add(self, kind: str, title: str, settings: dict[str, Any], seconds: float = 0.0) -> Entry:
        """Add a job at the end.

        Raises:
            UserError: it cannot be written.
        """
        position = max((position for _, _, position, _ in self._names()), default=0) + GAP
        added = time.strftime("%Y-%m-%d %H:%M")
        entry = Entry(secrets.token_hex(3), kind, title, settings, added, seconds, position)
        try:
            atomic_write_text(self._path(entry), write_entry(entry))
        except UnicodeEncodeError as error:  # bytes on the command line that Python could not read as text
            raise UserError(
                f"{title} was not added to the queue.",
                "One of its settings contains bytes that are no text in UTF-8.",
                "Type it again, or set the terminal to UTF-8.",
            ) from error
        except OSError as error:
            raise UserError(
                f"{title} was not added to the queue.",
                f"The system says: {error.strerror or error} ({self.folder}).",
                "Free some disk space or check the folder's permissions, and add it again.",
            ) from error
        return entry

    def remove(self, id: str) -> Entry:
        """Remove a waiting entry.

        Raises:
            UserError: it runs, or it is gone, or the system refuses it.
        """
        entry = self._waiting_entry(id, "was not removed")
        try:
            self._path(entry).unlink()
        except FileNotFoundError as error:
            raise _gone(entry.title) from error
        except OSError as error:
            raise _refused(entry, "was not removed", error) from error
        return entry

    def move(self, id: str, place: int) -> Entry:
        """Move a waiting entry.

        Args:
            place: its new place among the waiting ones; 1 is the next. Larger than their number: the last.

        Raises:
            UserError: it runs, or it is gone, or the system refuses it.
        """
        entry = self._waiting_entry(id, "was not moved")
        others = [other for other in self.waiting() if other.id != id]
        index = min(max(place, 1), len(others) + 1) - 1
        try:
            position = _between(others, index)
            if position is None:
                others = self._spread(others)
                position = _between(others, index)
                assert position is not None
            moved = replace(entry, position=position)
            rename(self._path(entry), self._path(moved))
        except FileNotFoundError as error:
            raise _gone(entry.title) from error
        except OSError as error:
            raise _refused(entry, "was not moved", error) from error
        return moved

    def clear_results(self) -> None:
        """Delete the results of earlier jobs. The files that they made stay."""
        for name in self._result_names():
            clear(self._results / name)

    # -- taking out, by the process that holds the workspace's lock ---------------------------------------------------

    def recover(self) -> None:
        """Let an entry whose process was killed wait again, in front. One whose result was written is over."""
        ended = {result.id for result in self.results()}
        for entry in self.entries():
            if entry.state == "running":
                if entry.id in ended:
                    clear(self._path(entry))
                else:
                    self.put_back(entry)

    def take(self) -> Entry | None:
        """Take the first waiting entry to run it. None if there is none."""
        for entry in self.waiting():
            taken = replace(entry, state="running")
            with suppress(FileNotFoundError):  # removed or moved just now: the next one, or the next call, finds it
                rename(self._path(entry), self._path(taken))
                return taken
        return None

    def put_back(self, entry: Entry) -> None:
        """Let a taken entry wait again, at its old place."""
        with suppress(FileNotFoundError):  # a deleted file means that it is not wanted
            rename(self._path(entry), self._path(replace(entry, state="waiting")))

    def finish(self, entry: Entry, outcome: EntryOutcome, words: str, seconds: float) -> Result:
        """Write the result of a taken entry, then remove the entry. Results beyond the newest KEPT are deleted.

        Raises:
            OSError: the result cannot be written. The entry is removed anyway.
        """
        now_ns = time.time_ns()
        now = time.localtime(now_ns // 10**9)
        result = Result(
            entry.id, entry.kind, entry.title, outcome, words, seconds, time.strftime("%Y-%m-%d %H:%M", now)
        )
        try:
            # The nanoseconds keep the order of results of the same second.
            name = f"{time.strftime('%Y%m%d-%H%M%S', now)}-{now_ns % 10**9:09d}-{entry.id}.json"
            atomic_write_text(self._results / name, write_result(result))
        finally:
            clear(self._path(entry))
        for name in self._result_names()[KEPT:]:
            clear(self._results / name)
        return result

    # -- files --------------------------------------------------------------------------------------------------------

    def _names(self) -> Iterable[tuple[str, str, int, EntryState]]:
        """Names of the entries' files, with their id, position and state."""
        names, before = self._listed(), None
        while names != before:  # a file that is renamed while a folder is listed may be in neither place
            names, before = self._listed(), names
        for name in names:
            if match := _NAME.fullmatch(name):
                yield name, match[3], int(match[2]), "running" if match[1] else "waiting"

    def _listed(self) -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(path.name for path in self.folder.iterdir())
        return []

    def _result_names(self) -> list[str]:
        """Names of the results' files, newest first."""
        with suppress(FileNotFoundError):
            return sorted((path.name for path in self._results.iterdir() if path.suffix == ".json"), reverse=True)
        return []

    def _path(self, entry: Entry) -> Path:
        running = "running-" if entry.state == "running" else ""
        return self.folder / f"{running}{entry.position:09d}-{entry.id}.json"

    def _waiting_entry(self, id: str, what: str) -> Entry:
        for entry in self.entries():
            if entry.id == id:
                if entry.state == "running":
                    raise UserError(
                        f"{entry.title} {what}.", "It is running.", "Stop or cancel the job itself, or wait for it."
                    )
                return entry
        raise _gone("The job")

    def _spread(self, entries: list[Entry]) -> list[Entry]:
        """Rename entries so that there are gaps between them, the last one first, so that their order never changes."""
        top = max((entry.position for entry in self.entries()), default=0)
        found = []
        for number, entry in reversed(list(enumerate(entries, 1))):
            found.append(replace(entry, position=top + number * GAP))
            rename(self._path(entry), self._path(found[-1]))
        return found[::-1]


def _between(entries: list[Entry], index: int) -> int | None:
    """A free position before the entry at ``index``, and after the one before it. None if there is none."""
    low = entries[index - 1].position if index else 0
    if index == len(entries):
        return low + GAP
    middle = (low + entries[index].position) // 2
    return middle if low < middle < entries[index].position else None


def _gone(title: str) -> UserError:
    return UserError(
        f"{title} is no longer waiting.",
        "It has started, ended or been removed in the meantime.",
        "Look at the list again.",
    )


def _refused(entry: Entry, what: str, error: OSError) -> UserError:
    return UserError(
        f"{entry.title} {what}.",
        f"The system says: {error.strerror or error}.",
        "Check the permissions of the workspace's folder queue, and try again.",
    )
