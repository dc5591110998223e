"""Stands in for the rules of other file systems, over the one that the tests run on."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.disk.in_use import sharing_violation


def open_files() -> set[Path]:
    """The files that this process has open (Linux)."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(link.readlink())
        except OSError:
            continue  # closed meanwhile
    return found


class Rules:
    """``refused`` counts what was refused, by name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.refused: Counter[str] = Counter()

    def refuse(self, place: Any, name: str, number: int) -> None:
        """Let a function always fail."""

        def fails(*_: Any, **__: Any) -> Any:
            self.refused[name] += 1
            raise OSError(number, os.strerror(number))

        self.patch.setattr(place, name, fails)

    def once(self, place: Any, name: str, number: int, after: int = 0) -> None:
        """Let a function fail once, after so many calls that work."""
        real, calls = getattr(place, name), Counter[str]()

        def fails_once(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            if calls[name] == after + 1:
                self.refused[name] += 1
                raise OSError(number, os.strerror(number))
            return real(*arguments, **named)

        self.patch.setattr(place, name, fails_once)


def ntfs(patch: pytest.MonkeyPatch) -> Rules:
    """No rename from or to a file that is open, nor of a folder in which one is; folders cannot be opened."""
    rules = Rules(patch)
    real_replace, real_open = os.replace, os.open

    def replace(source: Any, target: Any) -> None:
        for path in (Path(source).absolute(), Path(target).absolute()):
            if any(path == one or path in one.parents for one in open_files()):
                rules.refused["replace"] += 1
                raise sharing_violation()
        if Path(source).is_dir() and Path(target).exists():
            raise FileExistsError(errno.EEXIST, "folders do not replace folders")
        real_replace(source, target)

    def open_(path: Any, *arguments: Any, **named: Any) -> int:
        if isinstance(path, str | os.PathLike) and Path(path).is_dir():
            rules.refused["open"] += 1
            raise PermissionError(errno.EACCES, "Access is denied")
        return real_open(path, *arguments, **named)

    patch.setattr(os, "replace", replace)
    patch.setattr(os, "open", open_)
    return rules


def exfat(patch: pytest.MonkeyPatch) -> Rules:
    """No hard links, no symbolic links, no permissions; the last part of a path does not tell case."""
    rules = Rules(patch)
    for name in ("link", "symlink", "chmod"):
        rules.refuse(os, name, errno.EPERM)
    real_mkdir, real_stat = os.mkdir, os.stat

    def mkdir(path: Any, *arguments: Any, **named: Any) -> None:
        real_mkdir(_as_it_is_there(path), *arguments, **named)

    def stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        return real_stat(_as_it_is_there(path), *arguments, **named)

    patch.setattr(os, "mkdir", mkdir)
    patch.setattr(os, "stat", stat)
    return rules


def _as_it_is_there(path: Any) -> Any:
    """The path of what has this name in other case; the path itself if there is nothing."""
    if not isinstance(path, str | os.PathLike):
        return path
    folder, name = os.path.split(os.fspath(path))
    try:
        there = os.listdir(folder or ".")  # noqa: PTH208 - Path.iterdir would come back here
    except OSError:
        return path
    same = next((one for one in there if isinstance(name, str) and one.casefold() == name.casefold()), name)
    return os.path.join(folder, same)  # noqa: PTH118


def round_date(path: Path) -> None:
    """Round a date of change down to whole 2 s, as FAT stores it."""
    step = 2_000_000_000
    changed = path.stat().st_mtime_ns // step * step
    os.utime(path, ns=(changed, changed))
