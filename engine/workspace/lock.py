"""One workspace is open in one app at a time: a file in it says which; one that nobody holds any more is taken over.

The file holds the owner's process number, when that process began, and the computer's name. An owner that was killed
leaves the file behind; it counts as left when no process of that number and age is there. Whether an owner on another
computer (a workspace on a shared disk) still lives cannot be told from here, so that it is never taken over.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock, Timeout

from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.workspace.paths import Workspace

FILE = "in-use.json"
SAME_START_SECONDS = 2.0
TAKING_SECONDS = 20.0


@dataclass(frozen=True)
class Owner:
    """Who holds a workspace, as its file says."""

    pid: int
    started: str
    """When the process began, in this system's own measure (see ``process_start``); empty: not known."""
    host: str
    since: str
    doing: str
    """What it is, for people: the window, or a command."""
    address: str = ""
    """Where the window answers."""
    mark: str = ""
    """Another for every taking."""

    @property
    def here(self) -> bool:
        """On this computer."""
        return self.host == platform.node()

    @property
    def alive(self) -> bool:
        """Whether it may still have the workspace: a process of this number and age; of another computer, always."""
        if not self.here:
            return True
        now = process_start(self.pid)
        if now is None:
            return False
        return not self.started or same_start(now, self.started)


class InUse(UserError):
    """Another app has the workspace open."""

    def __init__(self, owner: Owner, root: Path) -> None:
        self.owner = owner
        who = f"{owner.doing}{f' at {owner.address}' if owner.address else ''}"
        if owner.here:
            super().__init__(
                "This workspace is open already.",
                f"ControlNet Studio ({who}, process {owner.pid}) has had {root} since {owner.since}; two at once would "
                "write over each other's runs.",
                "Go on there, or close it first. For a second one beside it, give another folder with --workspace.",
            )
        else:
            super().__init__(
                "This workspace is open on another computer.",
                f"{owner.host} ({who}) has had {root} since {owner.since}; two at once would write over each other's "
                "runs.",
                f"Close it there. If it is not open there any more, delete the file {root / FILE} and start again.",
            )


class WorkspaceLock:
    """Held from ``take`` to ``release``; also a context manager around the two.

    Args:
        doing: what has the workspace, for the message that another app shows.
    """

    def __init__(self, workspace: Workspace, doing: str) -> None:
        self._root = workspace.root
        self._path = workspace.root / FILE
        self._owner = Owner(
            pid=os.getpid(),
            started=process_start(os.getpid()) or "",
            host=platform.node(),
            since=time.strftime("%Y-%m-%d %H:%M"),
            doing=doing,
            mark=uuid.uuid4().hex,
        )

    def take(self) -> WorkspaceLock:
        """Hold the workspace.

        Raises:
            InUse: another app has it. UserError: the file cannot be written.
        """
        try:
            with self._one_at_a_time():
                owner = self._read()
                if owner is not None and owner.alive:
                    raise InUse(owner, self._root)
                atomic_write_text(self._path, self._text())
        except Timeout as error:
            raise UserError(
                "This workspace could not be opened.", "Several apps are being started on it at once.", "Start again."
            ) from error
        except OSError as error:
            raise UserError(
                f"The workspace {self._root} cannot be used.",
                f"{self._path.name} could not be written: {error.strerror or error}.",
                "Check that the folder may be written and has room, or choose another with --workspace.",
            ) from error
        return self

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Look and write in one go: under the system's own lock on a file, which ends with its process.

        Raises:
            Timeout: others hold it for long.
        """
        guard = FileLock(self._path.with_name(f".{FILE}-taking"), timeout=TAKING_SECONDS)
        try:
            guard.acquire()
        except NotImplementedError:  # a network share without such locks: whoever is quicker has it
            yield
            return
        try:
            yield
        finally:
            guard.release()

    def tell(self, address: str) -> None:
        """Add where the window answers, for whoever comes second."""
        self._owner = Owner(**{**asdict(self._owner), "address": address})
        atomic_write_text(self._path, self._text())

    def release(self) -> None:
        """Give the workspace back, if it is still held by this app. A disk that is gone is no fault here."""
        found = self._read()
        if found is not None and found.mark == self._owner.mark:
            try:
                self._path.unlink()
            except OSError as error:
                print(f"{self._path} could not be removed: {error.strerror or error}", file=sys.stderr)

    def __enter__(self) -> WorkspaceLock:
        return self.take()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _text(self) -> str:
        return json.dumps(asdict(self._owner), indent=2, ensure_ascii=False)

    def _read(self) -> Owner | None:
        """What the file says; None where it is not there or says nothing that can be read."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return Owner(**{**found, "pid": int(found["pid"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None


def process_start(pid: int) -> str | None:
    """When a process began; None where there is none, or only what an ended one leaves (a zombie).

    On Linux in clock ticks since the system's start, with that start's id: a clock that is set anew changes neither.
    Elsewhere in seconds, as the system keeps them.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform == "linux":
            ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
            return f"{boot} {ticks[19]}"  # field 22 of proc(5), counted from behind the name
        return f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
    except (psutil.AccessDenied, OSError, IndexError):
        return ""  # it is there, and that is all that can be told


def same_start(now: str, recorded: str) -> bool:
    """Whether two answers of ``process_start`` mean the same process; one that says nothing may."""
    if not now or now == recorded:
        return True
    try:
        return abs(float(now) - float(recorded)) < SAME_START_SECONDS
    except ValueError:
        return False
