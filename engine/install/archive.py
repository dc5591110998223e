"""Gets an archive of a newer version, from the project's address or a file, checks it and unpacks it beside the app."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import http.client
import re
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from engine.install.console import Console, InstallError
from engine.install.edition import BAT_OR_SH
from engine.install.exchange import KEPT, new_folder, update_folder
from engine.install.layout import Layout

ADDRESS = ""
"""Address of the newest release's zip file, entered here by the app's publisher. A file beside it, with
``.sha256`` appended to its address, may hold its checksum as sha256sum writes it. Nothing else names this address."""
NEEDED = ("app.py", "install.sh", "install.bat", "requirements.txt", "engine/version.py", "engine/install/__main__.py")
TIMEOUT_SECONDS = 30
BLOCK = 1 << 20
LARGEST = 2 << 30  # bytes unpacked; the app has some 30 MB
SPARE = 100 << 20  # bytes that stay free
NO_CHANGE = "Nothing was changed."


def get(layout: Layout, console: Console, wanted: str) -> Path:
    """Return the archive, downloaded into the update's folder if it lies on a server. Its checksum has been compared.

    Args:
        wanted: a file, an http(s) address, or "" for ADDRESS.

    Raises:
        InstallError: it is nowhere, no connection, damaged, or the disk is full.
    """
    source = wanted or ADDRESS
    if not source:
        raise InstallError(
            "This copy does not know where new versions are published.",
            f"Download the archive of the new version yourself, then run: {BAT_OR_SH} --update ARCHIVE.zip",
        )
    if not re.match(r"https?://", source):
        path = Path(source)
        if not path.is_file():
            raise InstallError(f"There is no file {path}.", "Enter the path of the new version's zip file.")
        beside = path.with_name(path.name + ".sha256")
        _compare(path, beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else "")
        return path
    try:
        path = _download(layout, console, source)
        _compare(path, _checksum(source))
    except OSError as error:
        raise _explain(error, source) from error
    except (http.client.HTTPException, ValueError) as error:
        cause = f"{source} sent an invalid answer: {error}. {NO_CHANGE}"
        raise InstallError(cause, "Try again later.") from error
    return path


def _download(layout: Layout, console: Console, address: str) -> Path:
    target = update_folder(layout) / "download.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as file:
        size, done = int(answer.headers.get("Content-Length") or 0), 0
        if size:
            _require_room(target.parent, size)
        while block := answer.read(BLOCK):
            file.write(block)
            done += len(block)
            console.tick(f"{done / 2**20:,.0f} of {size / 2**20:,.0f} MB" if size else f"{done / 2**20:,.0f} MB")
    if size and done != size:
        raise InstallError(
            f"The download ended after {done:,} of {size:,} bytes. {NO_CHANGE}", "Start the update again."
        )
    return target


def _checksum(address: str) -> str:
    """The text of the checksum file. Empty if the server has none."""
    try:
        with urllib.request.urlopen(address + ".sha256", timeout=TIMEOUT_SECONDS) as answer:
            return str(answer.read(4096).decode("utf-8", errors="replace"))
    except urllib.error.HTTPError as error:
        if error.code in (403, 404, 410):
            return ""
        raise


def _compare(path: Path, checksum: str) -> None:
    """Raise InstallError if the file has another SHA-256 than the text says. A text without one says nothing."""
    wanted = re.search(r"\b[0-9a-fA-F]{64}\b", checksum)
    if wanted is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted.group().lower():
        raise InstallError(
            f"The archive {path.name} is not the one that was published (its SHA-256 differs). {NO_CHANGE}",
            "Start the update again; if it happens again, please report it.",
        )


def unpack(layout: Layout, archive: Path) -> list[str]:
    """Unpack the archive into the update's folder, and check it. Changes no file of the app.

    Returns:
        The names of the entries of the app's folder that it brings.

    Raises:
        InstallError: it is damaged, not the app, or the disk is full.
    """
    target = new_folder(layout)
    shutil.rmtree(target, ignore_errors=True)
    try:
        target.mkdir(parents=True)
        with zipfile.ZipFile(archive) as packed:
            files = _files(packed)
            size = sum(info.file_size for info in files.values())
            if size > LARGEST:
                raise InstallError(
                    f"The archive would unpack to {size / 2**30:.0f} GB. {NO_CHANGE}",
                    "Check that it is the archive of the app.",
                )
            _require_room(target, size)
            for name, info in files.items():
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(info) as source, path.open("wb") as file:  # reading to the end compares the CRC
                    shutil.copyfileobj(source, file, BLOCK)
                if (info.external_attr >> 16) & stat.S_IXUSR:
                    path.chmod(0o755)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InstallError(
            f"The archive {archive.name} is damaged or not a zip file: {error}. {NO_CHANGE}", "Download it again."
        ) from error
    except OSError as error:
        raise _explain(error, str(archive)) from error
    return sorted({PurePosixPath(name).parts[0] for name in files})


def _files(packed: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The app's files by their path in the app's folder. Archives hold them below one folder, or directly.

    Raises:
        InstallError: it is not the app, or has paths that lead elsewhere.
    """
    infos = {info.filename.replace("\\", "/"): info for info in packed.infolist() if not info.is_dir()}
    tops = {name.split("/")[0] for name in infos}
    inside = f"{tops.pop()}/" if len(tops) == 1 else ""
    found = {name.removeprefix(inside): info for name, info in infos.items()}
    missing = [name for name in NEEDED if name not in found]
    if missing:
        cause = f"The archive is not ControlNet Studio: it contains no {missing[0]}. {NO_CHANGE}"
        raise InstallError(cause, "Use another archive.")
    for name, info in found.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or ":" in name or stat.S_ISLNK(info.external_attr >> 16):
            raise InstallError(
                f"The archive contains a path that leads outside the app's folder: {name}. {NO_CHANGE}",
                "Use another archive.",
            )
    # Windows takes "Workspace." for the folder workspace.
    return {name: info for name, info in found.items() if name.split("/")[0].lower().rstrip(". ") not in KEPT}


def is_same(layout: Layout, names: list[str]) -> bool:
    """Whether the app's files are already those of the unpacked version."""
    new = new_folder(layout)
    for path in (path for name in names for path in [new / name, *(new / name).rglob("*")] if path.is_file()):
        here = layout.root / path.relative_to(new)
        if not here.is_file() or not filecmp.cmp(path, here, shallow=False):
            return False
    return True


def own_files(layout: Layout, names: list[str]) -> list[str]:
    """Files among the replaced ones that the new version does not have: dropped ones, or the user's own."""
    new = new_folder(layout)
    here = (path for name in names for path in (layout.root / name).rglob("*") if path.is_file())
    relative = (path.relative_to(layout.root) for path in here if "__pycache__" not in path.parts)
    return [path.as_posix() for path in relative if not (new / path).exists()]


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise InstallError(
            f"Only {free / 2**20:,.0f} MB are free; the update needs {(size + SPARE) / 2**20:,.0f} MB. {NO_CHANGE}",
            "Free some space, then start the update again.",
        )


def _explain(error: OSError, source: str) -> InstallError:
    if isinstance(error, urllib.error.HTTPError):
        fix = "Try again later, or download the archive yourself and give its path after --update."
        return InstallError(f"{source}: the server says {error.code} {error.reason}. {NO_CHANGE}", fix)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InstallError(f"The disk is full. {NO_CHANGE}", "Free some space, then start the update again.")
    if isinstance(error, (urllib.error.URLError, TimeoutError, ConnectionError)):
        why = getattr(error, "reason", error)
        return InstallError(
            f"No connection to {source}: {why}. {NO_CHANGE}",
            "Check the internet connection and the proxy (HTTPS_PROXY), then start the update again.",
        )
    return InstallError(f"{source}: {error}. {NO_CHANGE}", "Check the file, the folder and the disk.")
