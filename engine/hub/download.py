"""Downloads files of a repository on the Hugging Face hub: resumable, and checked by the hub's hashes.

Requests, redirects, retries, proxies and the token are huggingface_hub's. Its own ``hf_hub_download`` discards a file
when it is interrupted, and its cache is another program's folder; so each file is fetched with its ``http_get``, which
can continue at any byte, and renamed once its hash is right.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from engine.disk.space import free_bytes
from engine.errors import UserError
from engine.hub import faults
from engine.hub.faults import Repository
from engine.hub.remote_file import Check, RemoteFile, fetch_file, is_whole, part_of, size_of
from engine.jobs.control import Cancelled, CancelToken, OnProgress
from engine.machine.units import MIB, format_bytes

LABEL = "Downloading, MB"
LOCK_SECONDS = 1.0
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFiles:
    """The files that would be downloaded, and their revision."""

    repository: Repository
    revision: str
    """The commit, so that all files are of one state."""
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def ask(
    repository: Repository,
    choose: Callable[[Sequence[str]], list[str]],
    target: Path,
    token: CancelToken | None = None,
    endpoint: str | None = None,
) -> RemoteFiles:
    """Ask the hub which files would be downloaded, and how large they are.

    Args:
        choose: picks among the names of the repository's files; may raise UserError.
        target: the folder for files that were downloaded by other means, for messages.
        endpoint: of the hub; None: HF_ENDPOINT, else the public one.

    Raises:
        UserError: the hub cannot be reached or refuses. Cancelled.
    """
    return _cancellable(lambda _: _ask(repository, choose, endpoint), token, repository, target)


def fetch(
    wanted: RemoteFiles,
    folder: Path,
    target: Path,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    endpoint: str | None = None,
    *,
    room: int = 0,
    begin: Callable[[], None] | None = None,
    finish: Callable[[], None] | None = None,
) -> None:
    """Download into a folder. What an earlier call has fetched is not fetched again; a cancel keeps it.

    Args:
        folder: gets the files. What is in it and has the right hash counts as fetched.
        target: as for ``ask``.
        progress: called as progress(megabytes done, in all, label).
        room: bytes that have to be free beside those of the download.
        begin, finish: called first and last, while no other process may write into the folder.

    Raises:
        UserError: with the cause. Cancelled.
    """

    def work(check: Check) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, wanted.repository):
            if begin:
                begin()
            _fetch_all(wanted, folder, check, progress, endpoint, room)
            if finish:
                finish()

    _cancellable(work, token, wanted.repository, target)


def _ask(repository: Repository, choose: Callable[[Sequence[str]], list[str]], endpoint: str | None) -> RemoteFiles:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    asked = api.dataset_info if repository.kind == "dataset" else api.model_info
    info: Any = asked(repository.id, files_metadata=True, timeout=20)
    described = {one.rfilename: one for one in info.siblings or []}
    files = []
    for name in choose(list(described)):
        one = described[name]
        sha256 = one.lfs.sha256 if one.lfs else ""
        files.append(RemoteFile(name, one.size or 0, sha256, "" if sha256 else one.blob_id or ""))
    return RemoteFiles(repository, info.sha or "main", tuple(files))


def _fetch_all(
    wanted: RemoteFiles, partial: Path, check: Check, progress: OnProgress | None, endpoint: str | None, room: int
) -> None:
    kept = {file.name for file in wanted.files if is_whole(partial / file.name, file, check)}
    begun = sum(size_of(part_of(partial, file)) for file in wanted.files if file.name not in kept)
    needed = sum(file.size for file in wanted.files if file.name not in kept) - begun + room
    if (free := free_bytes(partial)) < needed:
        raise faults.no_room(wanted.repository, partial.parent, format_bytes(needed), format_bytes(free))
    done = sum(file.size for file in wanted.files if file.name in kept)

    def report(position: int) -> None:
        check()
        if progress:
            progress((done + position) // MIB, max(1, wanted.bytes // MIB), LABEL)

    for file in wanted.files:
        if file.name not in kept:
            fetch_file(file, wanted.repository, wanted.revision, partial, report, endpoint)
            done += file.size
    report(0)


@contextmanager
def alone(partial: Path, repository: Repository) -> Iterator[None]:
    """Hold the lock of a download, which two windows or commands would write into at once."""
    lock = FileLock(partial.with_suffix(".lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{repository.id} was not downloaded.",
            "It is already being downloaded, or a cancelled download has not stopped yet.",
            "Wait a minute and try again.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _cancellable(work: Callable[[Check], T], token: CancelToken | None, repository: Repository, target: Path) -> T:
    """Do the work in a thread, so that Cancel ends the wait for a server that does not answer.

    An abandoned thread ends at its next byte, without writing it, because its ``Check`` raises.
    """
    result: list[T] = []
    failure: list[BaseException] = []
    over, stop = threading.Event(), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Cancelled
        if token:
            token.raise_if_cancelled()

    def run() -> None:
        try:
            result.append(work(check))
        except BaseException as error:
            failure.append(error)
        finally:
            over.set()

    threading.Thread(target=run, name=f"download of {repository.id}", daemon=True).start()
    try:
        while not over.wait(0.1):
            if token:
                token.raise_if_cancelled()
    except BaseException:
        stop.set()
        over.wait(1.0)  # it usually ends by itself, and closes its file
        raise
    if failure:
        explained = faults.explain(failure[0], repository, target)
        raise failure[0] if explained is None else explained from failure[0]
    return result[0]
