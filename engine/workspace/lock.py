"""Locks a workspace, so that only one app has it open at a time.

A file in the workspace holds the owner's process id, the start time of that process, and the computer's name. An owner
that was killed leaves the file behind; it is stale if there is no process with that id and start time. Whether an owner
on another computer (a workspace on a shared disk) is alive cannot be found out, so its lock is never taken over.
"""

from __future__ import annotations

import errno
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
from engine.workspace.paths import APP_FOLDER, Workspace

FILE = "in-use.json"
OPEN_APPS = APP_FOLDER / ".install" / "open"
"""Notes about the processes that use the app's files: the installer looks before it exchanges them."""
SAME_START_SECONDS = 2.0
ACQUIRE_SECONDS = 20.0
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What network shares say that have no locks, or whose server for them does not run (NFS without lockd)."""


@dataclass(frozen=True)
class Owner:
    """The owner of a workspace, as the lock file names it."""

    pid: int
    started: str
    """Start of the process in the system's own unit (see ``process_start``). Empty: not known."""
    host: str
    since: str
    doing: str
    """What has the workspace open, for messages: the window, or a command."""
    address: str = ""
    """Address of the window."""
    mark: str = ""
    """A new random value for every lock."""

    @property
    def here(self) -> bool:
        """Whether the owner is on this computer."""
        return self.host == platform.node()

    @property
    def alive(self) -> bool:
        """Whether the owner's process still runs. Always True for another computer."""
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
                "This workspace is already open.",
                f"ControlNet Studio ({who}, process {owner.pid}) has had {root} since {owner.since}; two at once "
                "would overwrite each other's runs.",
                "Use that one, or close it first. To open a second one, choose another folder with --workspace.",
            )
        else:
            super().__init__(
                "This workspace is open on another computer.",
                f"{owner.host} ({who}) has had {root} since {owner.since}; two at once would overwrite each "
                "other's runs.",
                f"Close it there. If it is no longer open there, delete the file {root / FILE} and start again.",
            )


class WorkspaceLock:
    """The lock of a workspace, held from ``acquire`` to ``release``. Also a context manager.

    Args:
        doing: what opens the workspace, for the message that another app shows.
    """

    def __init__(self, workspace: Workspace, doing: str) -> None:
        self._root = workspace.root
        self._path = workspace.root / FILE
        self._owner = this_process(doing)

    def acquire(self) -> WorkspaceLock:
        """Lock the workspace.

        Raises:
            InUse: another app has locked it. UserError: the file cannot be written.
        """
        try:
            with self._exclusively():
                owner = self._read()
                if owner is not None and owner.alive:
                    raise InUse(owner, self._root)
                atomic_write_text(self._path, self._text())
            write_open_app(self._owner)
        except Timeout as error:
            raise UserError(
                "This workspace could not be opened.",
                "Several copies of the app are being started with it at the same time.",
                "Start again.",
            ) from error
        except OSError as error:
            raise UserError(
                f"The workspace {self._root} cannot be used.",
                f"{self._path.name} could not be written: {error.strerror or error}.",
                "Check that you may write to the folder and that its disk has space, or choose another with "
                "--workspace.",
            ) from error
        return self

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Check and write the lock file without a race, under a lock of the system, which ends with its process.

        Raises:
            Timeout: other apps hold that lock for long.
        """
        guard = FileLock(self._path.with_name(f".{FILE}-taking"), timeout=ACQUIRE_SECONDS)
        try:
            guard.acquire()
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            yield  # a network share without such locks: a race between two apps is possible
            return
        try:
            yield
        finally:
            guard.release()

    def set_address(self, address: str) -> None:
        """Add the window's address, for the message that another app shows."""
        self._owner = Owner(**{**asdict(self._owner), "address": address})
        atomic_write_text(self._path, self._text())
        write_open_app(self._owner)

    def release(self) -> None:
        """Unlock the workspace, if this app still holds the lock. A disk that is gone is only reported."""
        remove_open_app(self._owner)
        found = self._read()
        if found is not None and found.mark == self._owner.mark:
            try:
                self._path.unlink()
            except OSError as error:
                print(f"{self._path} could not be removed: {error.strerror or error}", file=sys.stderr)

    def __enter__(self) -> WorkspaceLock:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _text(self) -> str:
        return json.dumps(asdict(self._owner), indent=2, ensure_ascii=False)

    def _read(self) -> Owner | None:
        return read_owner(self._path)


def read_owner(path: Path) -> Owner | None:
    """The owner in a lock file. None if there is no file, or it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Owner(**{**found, "pid": int(found["pid"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def owner_of(workspace: Workspace) -> Owner | None:
    """The app or command that has the workspace open. None if there is none."""
    owner = read_owner(workspace.root / FILE)
    return owner if owner is not None and owner.alive else None


def this_process(doing: str) -> Owner:
    """This process as an owner, with a new mark."""
    return Owner(
        pid=os.getpid(),
        started=process_start(os.getpid()) or "",
        host=platform.node(),
        since=time.strftime("%Y-%m-%d %H:%M"),
        doing=doing,
        mark=uuid.uuid4().hex,
    )


@contextmanager
def app_open(doing: str) -> Iterator[None]:
    """Let the installer know that this process uses the app's files, for commands that lock no workspace."""
    owner = this_process(doing)
    write_open_app(owner)
    try:
        yield
    finally:
        remove_open_app(owner)


def write_open_app(owner: Owner) -> None:
    """Write the note about an open app. The app continues without it: a folder that is not writable gets no update."""
    try:
        OPEN_APPS.mkdir(parents=True, exist_ok=True)
        atomic_write_text(OPEN_APPS / f"{owner.mark}.json", json.dumps(asdict(owner), ensure_ascii=False))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return  # an installation without write permission
        print(f"{OPEN_APPS} could not be written: {error.strerror or error}", file=sys.stderr)


def remove_open_app(owner: Owner) -> None:
    """Remove the note about an open app."""
    note = OPEN_APPS / f"{owner.mark}.json"
    try:
        note.unlink(missing_ok=True)
    except OSError as error:
        print(f"{note} could not be removed: {error.strerror or error}", file=sys.stderr)


def open_apps() -> list[Owner]:
    """The living processes of this app folder. Notes of those that were killed are removed."""
    found = []
    for path in sorted(OPEN_APPS.glob("*.json")):
        owner = read_owner(path)
        if owner is not None and owner.alive:
            found.append(owner)
        else:
            path.unlink(missing_ok=True)
    return found


def process_start(pid: int) -> str | None:
    """When a process started. None if there is no such process, or it is a zombie.

    On Linux in clock ticks since boot, with the id of that boot: setting the clock changes neither. Elsewhere in
    seconds since the epoch. Empty if the process exists but its start cannot be read.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform == "linux":
            ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
            return f"{boot} {ticks[19]}"  # field 22 of proc(5), counted after the name
        return f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
    except (psutil.AccessDenied, OSError, IndexError):
        return ""  # it exists; nothing more is known


def same_start(now: str, recorded: str) -> bool:
    """Whether two results of ``process_start`` may mean the same process; an empty one may mean any."""
    if not now or now == recorded:
        return True
    try:
        return abs(float(now) - float(recorded)) < SAME_START_SECONDS
    except ValueError:
        return False
