"""Fetches one file from the hub: a download continues at any byte; the file is renamed once its hash is right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from engine.disk.in_use import remove_file, rename
from engine.hub import faults
from engine.hub.faults import Repository
from engine.machine.units import MIB

PART = ".part"
_BLOCK = 4 * MIB
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


def fetch_file(
    file: RemoteFile,
    repository: Repository,
    revision: str,
    partial: Path,
    report: Callable[[int], None],
    endpoint: str | None,
) -> None:
    """Fetch one file; once more from the start, if what an earlier call had fetched turns out to be wrong.

    Args:
        revision: the commit of the repository.
        partial: the folder for the files of an unfinished download.
        report: called as report(bytes of the file so far). Raises Cancelled to end the download.
        endpoint: of the hub; None: HF_ENDPOINT, else the public one.

    Raises:
        UserError: the file that arrived has another hash. Errors of the connection are those of huggingface_hub.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    path, target = part_of(partial, file), partial / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(repository.id, file.name, repo_type=repository.kind, revision=revision, endpoint=endpoint)
    # A file that is compressed in transit could not be continued at one of its own bytes.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    while True:
        resumed = size_of(path)
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
        if is_whole(path, file, lambda: report(size_of(path))):
            rename(path, target)
            return
        remove_file(path)
        if not resumed:
            raise faults.wrong_hash(repository, file.name)


class _Quiet(tqdm):  # type: ignore[type-arg]
    """Replaces the library's progress bar, because the app has its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "disable": True})


class _Reporting:
    """A file that reports how much was written. If the report raises Cancelled, the download ends."""

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


def is_whole(path: Path, file: RemoteFile, check: Check) -> bool:
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


def part_of(partial: Path, file: RemoteFile) -> Path:
    """Path of an unfinished file. The hash is in its name, so a download never continues another version's file."""
    return partial / f"{file.name}.{(file.sha256 or file.git_hash)[:12]}{PART}"


def size_of(path: Path) -> int:
    """The size in bytes; 0 if there is no such file."""
    return path.stat().st_size if path.is_file() else 0
