"""Downloads a base from the Hugging Face hub into the workspace's models: resumable, and checked by the hub's hashes.

Requests, redirects, retries, proxies and the token are huggingface_hub's. Its own ``hf_hub_download`` throws a file
away when it is interrupted, and its cache is another program's folder; so each file is fetched with its ``http_get``,
which goes on at any byte, and renamed once its hash is right. The base's folder appears when it has everything.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from engine.bases import hub_faults
from engine.bases.listed import is_complete, state_of
from engine.bases.wanted import wanted_files
from engine.disk.durable import move_into_place
from engine.disk.in_use import remove_file, rename
from engine.disk.space import free_bytes
from engine.errors import UserError
from engine.jobs.control import Cancelled, CancelToken, OnProgress
from engine.machine.units import MIB, format_bytes
from engine.workspace.paths import Workspace

PART = ".part"
LABEL = "Downloading, MB"
LOCK_SECONDS = 1.0
_BLOCK = 4 * MIB
T = TypeVar("T")


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

    base: str
    """The hub id."""
    revision: str
    """The commit, so that all files are of one state."""
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def ask(workspace: Workspace, base: str, token: CancelToken | None = None, endpoint: str | None = None) -> Offer:
    """Ask the hub which files of a base would be downloaded, and how large they are.

    Args:
        base: owner/name.
        endpoint: of the hub; None: HF_ENDPOINT, else the public one.

    Raises:
        UserError: the hub cannot be reached or refuses, or the repository is no base. Cancelled.
    """
    return _cancellable(lambda: _ask(base, endpoint), token, base, workspace.downloaded_base(base))


def download(
    workspace: Workspace,
    offer: Offer,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    endpoint: str | None = None,
) -> Path:
    """Download a base. What an earlier call has fetched is not fetched again.

    Args:
        offer: from ``ask``.
        token: a cancel keeps what has been fetched.
        progress: called as progress(megabytes done, in all, label).

    Returns:
        The base's folder. ``Workspace.locate_base`` finds it by the hub id, without a connection.

    Raises:
        UserError: with the cause. Cancelled.
    """
    state = state_of(workspace, offer.base)
    if state.kind == "there" and state.where is not None:
        return state.where
    partial, target = workspace.partial_base(offer.base), workspace.downloaded_base(offer.base)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Cancelled
        if token:
            token.raise_if_cancelled()

    def work() -> Path:
        partial.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not is_complete(target):
            _adopt(target, partial)
        with alone(partial, offer.base):
            _fetch_all(offer, partial, check, progress, endpoint)
            move_into_place(partial, target)
        return target

    return _cancellable(work, token, offer.base, target, stop)


def _ask(base: str, endpoint: str | None) -> Offer:
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint).model_info(base, files_metadata=True, timeout=20)
    described = {one.rfilename: one for one in info.siblings or []}
    files = []
    for name in wanted_files(base, list(described)):
        one = described[name]
        sha256 = one.lfs.sha256 if one.lfs else ""
        files.append(RemoteFile(name, one.size or 0, sha256, "" if sha256 else one.blob_id or ""))
    return Offer(base, info.sha or "main", tuple(files))


def _fetch_all(
    offer: Offer, partial: Path, check: Callable[[], None], progress: OnProgress | None, endpoint: str | None
) -> None:
    kept = {file.name for file in offer.files if _is_whole(partial / file.name, file, check)}
    begun = sum(_size(_part(partial, file)) for file in offer.files if file.name not in kept)
    needed = sum(file.size for file in offer.files if file.name not in kept) - begun
    if (free := free_bytes(partial)) < needed:
        raise hub_faults.no_room(offer.base, partial.parent, format_bytes(needed), format_bytes(free))
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
    url = hf_hub_url(offer.base, file.name, revision=offer.revision, endpoint=endpoint)
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
            raise hub_faults.wrong_hash(offer.base, file.name)


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


def _is_whole(path: Path, file: RemoteFile, check: Callable[[], None]) -> bool:
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


def _adopt(folder: Path, partial: Path) -> None:
    """Use the files of an incomplete folder that a person has copied: those with the right hash are not fetched.

    Raises:
        UserError: it is a link. The files belong to another program.
    """
    if folder.is_symlink():
        raise UserError(
            f"{folder} is not complete.",
            "It is a link to a folder in another place, where nothing is changed.",
            "Remove the link and download it again, or complete that folder.",
        )
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        place = partial / path.relative_to(folder)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            rename(path, place)
    for rest in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        rest.rmdir()
    folder.rmdir()


@contextmanager
def alone(partial: Path, base: str) -> Iterator[None]:
    """Hold the lock of a download, which two windows or commands would write into at once."""
    lock = FileLock(partial.with_suffix(".lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{base} was not downloaded.",
            "It is being downloaded already, or a download that was cancelled has not ended yet.",
            "Wait a minute and try again.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _cancellable(
    work: Callable[[], T], token: CancelToken | None, base: str, target: Path, stop: threading.Event | None = None
) -> T:
    """Do the work in a thread, so that Cancel ends the wait for a server that does not answer.

    A thread that was left ends at its next byte, without writing it: ``stop`` tells it.
    """
    result: list[T] = []
    failure: list[BaseException] = []
    over = threading.Event()

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)
        finally:
            over.set()

    threading.Thread(target=run, name=f"download of {base}", daemon=True).start()
    try:
        while not over.wait(0.1):
            if token:
                token.raise_if_cancelled()
    except BaseException:
        if stop is not None:
            stop.set()
        over.wait(1.0)  # most often it ends by itself, and its file is closed
        raise
    if failure:
        explained = hub_faults.explain(failure[0], base, target)
        raise failure[0] if explained is None else explained from failure[0]
    return result[0]
