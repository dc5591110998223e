"""Downloads files of a repository on the Hugging Face hub: resumable, and checked by the hub's hashes.

Requests, redirects, retries, proxies and the token are huggingface_hub's. Its own ``hf_hub_download`` throws a file
away when it is interrupted, and its cache is another program's folder; so each file is fetched with its ``http_get``,
which goes on at any byte, and renamed once its hash is right.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from engine.disk.in_use import remove_file, rename
from engine.disk.space import free_bytes
from engine.errors import UserError
from engine.hub import faults
from engine.hub.faults import Repository
from engine.jobs.control import Cancelled, CancelToken, OnProgress
from engine.machine.units import MIB, format_bytes

PART = ".part"
LABEL = "Downloading, MB"
LOCK_SECONDS = 1.0
_BLOCK = 4 * MIB
T = TypeVar("T")
Check = Callable[[], None]
"""Raises Cancelled when the work should end."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository, as the hub describes it."""

    name: str
    size: int
    """In bytes; 0 if the hub does not say."""
    sha256: str
    """Of a large file; empty for a small one."""
    git_hash: str
    """git's hash of a small file; empty if the hub does not say."""


@dataclass(frozen=True)
class Offer:
    """What would be downloaded."""

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
) -> Offer:
    """Ask the hub which files would be downloaded, and how large they are.

    Args:
        choose: picks among the names of the repository's files; may raise UserError.
        target: where people put the files who bring them by other means.
        endpoint: of the hub; None: HF_ENDPOINT, else the public one.

    Raises:
        UserError: the hub cannot be reached or refuses. Cancelled.
    """
    return _cancellable(lambda _: _ask(repository, choose, endpoint), token, repository, target)


def fetch(
    offer: Offer,
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
        with alone(folder, offer.repository):
            if begin:
                begin()
            _fetch_all(offer, folder, check, progress, endpoint, room)
            if finish:
                finish()

    _cancellable(work, token, offer.repository, target)


def _ask(repository: Repository, choose: Callable[[Sequence[str]], list[str]], endpoint: str | None) -> Offer:
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
    return Offer(repository, info.sha or "main", tuple(files))


def _fetch_all(
    offer: Offer, partial: Path, check: Check, progress: OnProgress | None, endpoint: str | None, room: int
) -> None:
    kept = {file.name for file in offer.files if _is_whole(partial / file.name, file, check)}
    begun = sum(_size(_part(partial, file)) for file in offer.files if file.name not in kept)
    needed = sum(file.size for file in offer.files if file.name not in kept) - begun + room
    if (free := free_bytes(partial)) < needed:
        raise faults.no_room(offer.repository, partial.parent, format_bytes(needed), format_bytes(free))
    done = sum(file.size for file in offer.files if file.name in kept)

    def report(position: int) -> None:
        check()
        if progress:
            progress((done + position) // MIB, max(1, offer.bytes // MIB), LABEL)

    for file in offer.files:
        if file.name not in kept:
            _fetch(offer, file, partial, report, endpoint)
            done += file.size
    report(0)


def _fetch(offer: Offer, file: RemoteFile, partial: Path, report: Callable[[int], None], endpoint: str | None) -> None:
    """Fetch one file; once more from the start, if what an earlier call had fetched turns out to be wrong."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    path, target = _part(partial, file), partial / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    there = offer.repository
    url = hf_hub_url(there.id, file.name, repo_type=there.kind, revision=offer.revision, endpoint=endpoint)
    # Compressed on the way, a file could not be gone on with at a byte of it.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    while True:
        resumed = _size(path)
        if file.size and resumed > file.size:
            remove_file(path)
            resumed = 0
        with path.open("ab") as opened:
            written = _Reporting(opened, report)
            report(resumed)
            http_get(
                url,
                written,  # type: ignore[arg-type]
                resume_size=resumed,
                headers=headers,
                expected_size=file.size or None,
                displayed_filename=file.name,
                tqdm_class=_Quiet,
            )
        if _is_whole(path, file, lambda: report(_size(path))):
            rename(path, target)
            return
        remove_file(path)
        if not resumed:
            raise faults.wrong_hash(offer.repository, file.name)


class _Quiet(tqdm):  # type: ignore[type-arg]
    """The library's progress bar, not printed: the app has its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "disable": True})


class _Reporting:
    """A file that tells how far it was written, and ends the download when that raises Cancelled."""

    def __init__(self, file: BinaryIO, report: Callable[[int], None]) -> None:
        self._file, self._report = file, report

    def write(self, data: bytes) -> int:
        self._report(self._file.tell())
        count = self._file.write(data)
        self._report(self._file.tell())
        return count

    def seek(self, position: int) -> int:
        return self._file.seek(position)

    def truncate(self) -> int:
        self._report(self._file.tell())
        return self._file.truncate()

    def tell(self) -> int:
        return self._file.tell()


def _is_whole(path: Path, file: RemoteFile, check: Check) -> bool:
    """Whether a file has the size and the hash that the hub states."""
    if not path.is_file() or (file.size and path.stat().st_size != file.size):
        return False
    if not file.sha256 and not file.git_hash:
        return True
    # A small file's hash is git's: of its kind, its size and its bytes.
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
    if not file.sha256:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK):
            check()
            digest.update(block)
    return digest.hexdigest() == (file.sha256 or file.git_hash)


def _part(partial: Path, file: RemoteFile) -> Path:
    """Where a file is until it is whole. Its hash is in the name: the rest of another version is not gone on with."""
    return partial / f"{file.name}.{(file.sha256 or file.git_hash)[:12]}{PART}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def alone(partial: Path, repository: Repository) -> Iterator[None]:
    """Hold the lock of a download, which two windows or commands would write into at once."""
    lock = FileLock(partial.with_suffix(".lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{repository.id} was not downloaded.",
            "It is being downloaded already, or a download that was cancelled has not ended yet.",
            "Wait a minute and try again.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _cancellable(work: Callable[[Check], T], token: CancelToken | None, repository: Repository, target: Path) -> T:
    """Do the work in a thread, so that Cancel ends the wait for a server that does not answer.

    A thread that was left ends at its next byte, without writing it: its ``Check`` tells it.
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
        over.wait(1.0)  # most often it ends by itself, and its file is closed
        raise
    if failure:
        explained = faults.explain(failure[0], repository, target)
        raise failure[0] if explained is None else explained from failure[0]
    return result[0]
