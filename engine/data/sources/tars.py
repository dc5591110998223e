"""Webdataset archives, as written by img2dataset: 000000012.jpg, .txt and .json in 00000.tar, 00001.tar, …

Files are extracted one at a time into the dataset's own folder: only regular files with names that stay inside it.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from engine.data.import_config import ImportConfig
from engine.data.layouts.inventory import LISTS, TEXTS
from engine.data.sources.model import FetchResult, ImageSource, files_of, refuse_pointer
from engine.data.sources.unpacking import LIST_BYTES, NAME_ERRORS, copy_lists, is_there, safe_path, write_new
from engine.disk.images import EXTENSIONS
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import MIB, counted

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_BLOCK = 512  # bytes; a tar archive consists of whole ones
_TEXT_BYTES = 1_000_000
_LIMITS = {**dict.fromkeys(LISTS, LIST_BYTES), **dict.fromkeys(TEXTS, _TEXT_BYTES)}
"""Largest sizes of files that are no images, in bytes, by their endings."""
_HEADER_BYTES = 1_000_000  # for long names and notes; tarfile itself would read any size into memory
MOST_MEMBERS = 20_000_000
_RATIO, FREE_BYTES = 200, 256_000_000  # largest ratio of unpacked to packed size, after this many bytes


class SmallHeaders(tarfile.TarInfo):
    """A member that refuses long names and notes of an unreasonable size."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if not self.isreg() and not self.isdir() and self.size > _HEADER_BYTES:
            raise _Refused(f"It has a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def fits(place: str) -> bool:
    """Whether the place is an archive, or a folder with some and without images."""
    return bool(files_of(place, ENDINGS))


def fetch(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> FetchResult:
    """Unpacks each archive into a folder of its own. Skips files that exist already.

    The lists and texts beside them are copied.

    Raises:
        UserError: none of the archives can be read. Cancelled: the token was cancelled.
    """
    archives = files_of(place, ENDINGS)
    fetched = FetchResult(notes=[f"{counted(len(archives), 'archive')}."])
    size = sum(path.stat().st_size for path in archives) or 1
    before, broken = 0, 0
    names: set[str] = set()
    for archive in archives:
        name = archive.name.split(".")[0]
        while name in names:  # two folders may contain archives of the same name
            name += "-"
        names.add(name)
        try:
            _unpack(archive, folder / name, config, fetched, (before, size), progress, token)
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # an error while writing, not in the archive
            refuse_pointer(archive)
            broken += 1
            fetched.notes.append(_incomplete(archive, _fault(archive, error)))
        else:
            if _is_cut(archive) and not _full(fetched, config):
                fetched.notes.append(_incomplete(archive, "Its end is missing"))
        before += archive.stat().st_size
        if _full(fetched, config):
            break
    if broken == len(archives) and not fetched.new + fetched.present:
        raise UserError(
            f"{archives[0].name} cannot be read.", fetched.notes[-1], "Download or copy it again: it is incomplete."
        )
    if Path(place).expanduser().is_dir():
        fetched.used = [*archives, *copy_lists(Path(place).expanduser(), archives, folder)]
    return fetched


def _incomplete(archive: Path, why: str) -> str:
    return f"{archive.name} could not be read completely. {why}. What came before that was kept."


def _is_cut(archive: Path) -> bool:
    """Whether an archive without compression ends within a block, which a stream does not report."""
    return archive.suffix.lower() == ".tar" and archive.stat().st_size % _BLOCK != 0


def _fault(archive: Path, error: Exception) -> str:
    """Why an archive cannot be read to its end, as a sentence without its full stop."""
    if isinstance(error, _Refused):
        return str(error)
    if not archive.stat().st_size:
        return "The file is empty (zero bytes)"
    if isinstance(error, EOFError) or "end of" in str(error) or _is_cut(archive):
        return "Its end is missing: it was not downloaded or copied completely"
    with archive.open("rb") as file:
        named = file.read(262)[257:] == b"ustar"
    return "It is damaged inside" if named or archive.suffix.lower() != ".tar" else "It is damaged or no tar archive"


class _Refused(tarfile.ReadError):
    """The archive can be read, and is not: the text is the sentence that people read, without its full stop."""


def _full(fetched: FetchResult, config: ImportConfig) -> bool:
    return bool(config.max_pictures) and fetched.new + fetched.present >= config.max_pictures


def _unpack(
    archive: Path,
    folder: Path,
    config: ImportConfig,
    fetched: FetchResult,
    part: tuple[int, int],
    progress: OnProgress,
    token: CancelToken,
) -> None:
    last = ""
    # As a stream, so that nothing is read twice.
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*", tarinfo=SmallHeaders) as tar:
        for number, member in enumerate(tar):
            token.raise_if_cancelled()
            _check_growth(number, tar.offset, raw.tell())
            progress((part[0] + raw.tell()) // MIB, max(1, part[1] // MIB), "Megabytes unpacked")
            relative = safe_member(member)
            if relative is None:
                if not member.isdir():
                    fetched.skip("entries that are not regular files, or whose paths lead out of the folder")
                continue
            image = relative.suffix.lower() in EXTENSIONS
            if not image and relative.suffix.lower() not in _LIMITS:
                fetched.skip(f"entries that end in {relative.suffix or 'nothing'}")
                continue
            stem = str(relative.with_suffix(""))
            if _full(fetched, config) and stem != last:  # the text files of the last image are still needed
                return
            if member.size > (config.max_megabytes * MIB if image else _LIMITS[relative.suffix.lower()]):
                fetched.skip("larger than the limit")
                continue
            try:
                new = _extract(tar, member, folder / relative)
            except OSError as error:
                if error.errno not in NAME_ERRORS:
                    raise
                fetched.skip("entries whose names this system does not support")
                continue
            if image:
                last = stem
                if new:
                    fetched.new += 1
                else:
                    fetched.present += 1


def _check_growth(members: int, unpacked: int, packed: int) -> None:
    """Stops at a decompression bomb. Raises _Refused; what came before is kept."""
    if members > MOST_MEMBERS:
        raise _Refused(f"It has more than {MOST_MEMBERS:,} entries")
    if unpacked > FREE_BYTES and unpacked > _RATIO * packed:
        raise _Refused(f"It unpacks to more than {_RATIO} times its size")


def safe_member(member: tarfile.TarInfo) -> PurePosixPath | None:
    """The path of a regular file inside the folder. None for links, devices, folders and names that lead elsewhere."""
    return safe_path(member.name) if member.isreg() else None


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> bool:
    """Extracts a file unless it exists. Returns whether it is new."""
    if is_there(target, member.size):
        return False
    source = tar.extractfile(member)
    assert source is not None  # it is a regular file
    if write_new(source, target) != member.size:
        raise tarfile.ReadError("the end of the archive is missing")
    return True


TARS = ImageSource("webdataset", "webdataset archives (.tar), as written by img2dataset", fits, fetch)
