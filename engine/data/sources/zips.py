"""Zip archives with images, their captions and lists, made by hand or downloaded from the Hub.

Files are extracted one at a time into the dataset's own folder: only regular files with names that stay inside it.
"""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from engine.data.import_config import ImportConfig
from engine.data.layouts.inventory import ARCHIVES, LISTS, TEXTS, image_files
from engine.data.sources.model import FetchResult, ImageSource, files_of, refuse_pointer
from engine.data.sources.unpacking import LIST_BYTES, NAME_ERRORS, copy_lists, is_there, safe_path, write_new
from engine.disk.images import EXTENSIONS
from engine.disk.text import decode
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import MIB, counted

ENDINGS = (".zip",)
MOST_MEMBERS = 20_000_000
RATIO, FREE_BYTES = 200, 256_000_000
"""The largest ratio of unpacked to packed size, of archives that unpack to more than so many bytes."""
TEXT_BYTES = 1_000_000
NO_MAXIMUM = "“Maximum number” does not apply to zip archives: which files are maps and captions is not known before."
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_UTF8 = 0x800  # the flag of names in UTF-8


def fits(place: str) -> bool:
    """Whether the place is a zip archive, or a folder that has some and no images."""
    path = Path(place).expanduser()
    return bool(files_of(place, ENDINGS)) and not (path.is_dir() and next(iter(image_files(path)), None))


def fetch(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> FetchResult:
    """Unpacks the archives, and copies the lists beside them. Skips files that exist already.

    Archives that have no file in common are parts of one set, and are unpacked into one folder, so that a list beside
    them names their images; others get a folder each.

    Raises:
        UserError: an archive cannot be read, or would unpack to an unreasonable size. Cancelled.
    """
    paths = files_of(place, ENDINGS)
    fetched = FetchResult(notes=[f"{counted(len(paths), 'archive')}."])
    if config.max_pictures:
        fetched.notes.append(NO_MAXIMUM)
    with ExitStack() as stack:
        archives = [(path, stack.enter_context(_open(path, folder))) for path in paths]
        targets = _targets(folder, archives)
        total = sum(member.file_size for _, archive in archives for member in archive.infolist()) or 1
        done = 0
        for path, archive in archives:
            for member, relative in _members(archive, config, fetched):
                token.raise_if_cancelled()
                _extract(path, archive, member, targets[path] / relative, fetched)
                done += member.file_size
                progress(done // MIB, max(1, total // MIB), "Megabytes unpacked")
    if Path(place).expanduser().is_dir():
        fetched.used = [*paths, *copy_lists(Path(place).expanduser(), paths, folder)]
    return fetched


def _open(path: Path, folder: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except (*_DAMAGED, ValueError) as error:
        refuse_pointer(path)
        raise _broken(path, error) from error
    members = archive.infolist()
    _read_names(members, [folder, folder / path.stem])
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if len(members) > MOST_MEMBERS or (unpacked > FREE_BYTES and unpacked > RATIO * packed):
        archive.close()
        raise UserError(
            f"{path.name} was not unpacked.",
            f"It would unpack to more than {RATIO} times its size, unlike any images, or to millions of files.",
            "Remove the file, or ask its owner what is in it.",
        )
    return archive


def _read_names(members: Sequence[zipfile.ZipInfo], folders: Sequence[Path]) -> None:
    """Give members the names that they were packed under, where the archive does not say in which encoding these are.

    Windows packs names in the code page of its country, and Python takes all of them for code page 437. One guess for
    all names of an archive: they come from one computer. ``folders``: where an earlier version may have unpacked them
    under Python's names, which stay then.
    """
    unsure = [member for member in members if not member.flag_bits & _UTF8 and not member.orig_filename.isascii()]
    before = (folder / relative for one in unsure if (relative := safe_path(one.filename)) for folder in folders)
    try:
        if any(path.exists() for path in before):
            return
        names = [member.filename.encode("cp437") for member in unsure]
        text = decode(b"\n".join(names)).text.split("\n")
    except (UnicodeError, OSError):
        return  # no names of Python's code page 437, or too long for this system
    if len(text) == len(unsure):
        for member, name in zip(unsure, text, strict=True):
            member.filename = name


def _targets(folder: Path, archives: Sequence[tuple[Path, zipfile.ZipFile]]) -> dict[Path, Path]:
    """The folder that each archive is unpacked into."""
    names = [str(name) for _, archive in archives for _, name in _safe_members(archive) if name is not None]
    if len(set(names)) == len(names):
        return {path: folder for path, _ in archives}
    before = {path: folder / f"{path.stem}{'-' * number}" for number, (path, _) in enumerate(archives)}
    if any(target.is_dir() for target in list(before.values())[1:]):
        return before  # an earlier version has begun with these
    targets: dict[Path, Path] = {}
    for path, _ in archives:
        name = path.stem
        while folder / name in targets.values():  # two folders may hold archives of the same name
            name += "-"
        targets[path] = folder / name
    return targets


def _safe_members(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath | None]]:
    """The files of an archive with their safe names; None for those that are not extracted."""
    for member in archive.infolist():
        if not member.is_dir() and not member.filename.startswith("__MACOSX/"):
            kind = stat.S_IFMT(member.external_attr >> 16)
            yield member, safe_path(member.filename) if kind in (0, stat.S_IFREG) else None


def _members(
    archive: zipfile.ZipFile, config: ImportConfig, fetched: FetchResult
) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The members that are wanted, with their safe names. Counts the others by their reasons."""
    for member, relative in _safe_members(archive):
        if relative is None:
            fetched.skip("entries that are not regular files, or whose paths lead out of the folder")
            continue
        ending = relative.suffix.lower()
        limits = {**dict.fromkeys(LISTS, LIST_BYTES), **dict.fromkeys(TEXTS, TEXT_BYTES)}
        limit = config.max_megabytes * MIB if ending in EXTENSIONS else limits.get(ending, 0)
        if not limit:
            inside = "archives inside the archive, which you can unpack yourself"
            fetched.skip(inside if ending in ARCHIVES else f"entries that end in {ending or 'nothing'}")
        elif member.file_size > limit:
            fetched.skip("larger than the limit")
        else:
            yield member, relative


def _extract(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, fetched: FetchResult) -> None:
    """Extract a file unless it exists, and count it if it is an image."""
    new = not is_there(target, member.file_size)
    if new:
        try:
            with archive.open(member) as source:
                write_new(source, target)
        except _DAMAGED:
            fetched.skip(f"damaged inside {path.name}")
            return
        except (NotImplementedError, RuntimeError) as error:
            raise _broken(path, error) from error
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise
            fetched.skip("entries whose names this system does not support")
            return
    if target.suffix.lower() in EXTENSIONS:
        fetched.new += new
        fetched.present += not new


def _broken(path: Path, error: Exception) -> UserError:
    """The error for an archive that cannot be read. RuntimeError is how Python says that one needs a password."""
    if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
        return UserError(
            f"{path.name} cannot be read.", "It is protected by a password.", "Unpack it and choose the folder."
        )
    if isinstance(error, NotImplementedError):
        return UserError(f"{path.name} cannot be read.", "Its compression is not supported.", "Unpack it yourself.")
    return UserError(
        f"{path.name} cannot be read.",
        f"{_fault(path)} What was unpacked is kept.",
        "Download or copy it again.",
    )


def _fault(path: Path) -> str:
    """Why an archive cannot be opened. Its list of files stands at its end."""
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        return "The file is empty (zero bytes)."
    if start[:2] != b"PK":
        return "It does not begin like a zip archive: it is a different kind of file, whatever its name says."
    return "Its end is missing or damaged: it was not downloaded or copied completely."


ZIPS = ImageSource("zip", "zip archives (.zip)", fits, fetch)
