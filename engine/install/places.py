"""``--where``: what the app has put where on this computer, and how large it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from engine.install.console import Console
from engine.install.exchange import kept_folder
from engine.install.layout import Layout
from engine.install.shortcut import TITLE, linux_shortcuts

WORKSPACE = "CONTROLNET_STUDIO_WORKSPACE"  # as in engine/workspace/paths.py


class Owner(Enum):
    """Whose a place is, which decides what ``--uninstall`` does with it."""

    APP = "Installed by the app (--uninstall deletes it)"
    USER = "Yours (--uninstall keeps it)"
    SHARED = "Shared with other programs (--uninstall keeps it)"


@dataclass(frozen=True)
class Place:
    """A file or folder that may exist. ``inside``: without these folders in it, which are places of their own."""

    title: str
    path: Path
    owner: Owner
    inside: tuple[Path, ...] = ()


def private_python(layout: Layout) -> Path:
    """The folder of the Python that install.sh and install.bat fetch where none is suitable."""
    return layout.log.parent / "python"


def workspace_of(layout: Layout, named: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The workspace that the app would use. ``named``: by --workspace."""
    return Path(named or environment.get(WORKSPACE) or layout.root / "workspace").absolute()


def places(layout: Layout, workspace: Path, environment: Mapping[str, str] = os.environ) -> list[Place]:
    """All places, those that do not exist included."""
    own, kept = private_python(layout), kept_folder(layout)
    workspace = workspace.resolve()  # a link to another disk: what lies there is the person's
    parts = [workspace / name for name in ("datasets", "cache", "runs", "models")]
    titles = ("datasets", "cached latents and texts", "runs with their checkpoints", "downloaded and added models")
    return [
        Place("Python environment with all packages", layout.venv, Owner.APP),
        Place("private Python", own, Owner.APP),
        Place("log and previous version", layout.log.parent, Owner.APP, (own, kept)),
        *(Place("shortcut", path, Owner.APP) for path in linux_shortcuts(layout.root, environment)),
        *(Place(title, path, Owner.USER) for title, path in zip(titles, parts, strict=True)),
        Place("everything else in the workspace", workspace, Owner.USER, tuple(parts)),
        Place("your files that an update put aside", kept, Owner.USER),
        Place("pip's downloads", _pip_cache(environment), Owner.SHARED),
        Place("Hugging Face's downloads", _hub_cache(environment), Owner.SHARED),
    ]


def _caches(environment: Mapping[str, str]) -> Path:
    home = Path(environment.get("HOME") or environment.get("USERPROFILE") or Path.home())
    if sys.platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
    mac = home / "Library" / "Caches"
    return mac if sys.platform == "darwin" else Path(environment.get("XDG_CACHE_HOME") or home / ".cache")


def _pip_cache(environment: Mapping[str, str]) -> Path:
    named = environment.get("PIP_CACHE_DIR")
    return Path(named) if named else _caches(environment) / ("pip/Cache" if sys.platform == "win32" else "pip")


def _hub_cache(environment: Mapping[str, str]) -> Path:
    """As huggingface_hub determines it, which has ~/.cache on every system."""
    home = Path(environment.get("HOME") or environment.get("USERPROFILE") or Path.home())
    base = environment.get("HF_HOME") or Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface"
    return Path(environment.get("HF_HUB_CACHE") or Path(base) / "hub")


def size_of(path: Path, without: tuple[Path, ...] = ()) -> int:
    """Bytes of a file, or of all files below a folder. Links are not followed; what cannot be read counts nothing."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    return sum(_sizes(path, {os.fspath(folder) for folder in without}))


def _sizes(folder: Path | str, without: set[str]) -> Iterator[int]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if entry.path not in without:
                yield from _sizes(entry.path, without)
        else:
            try:
                yield entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue


def amount(size: int) -> str:
    """Bytes for people: "2.5 GB" (of 2**30 bytes, as everywhere in the app) or "110 MB"."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{-(-size // 2**20)} MB"


def show(layout: Layout, console: Console, workspace: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Print every place that exists, each as soon as its size is known, which takes seconds for large folders."""
    found = [place for place in places(layout, workspace, environment) if os.path.lexists(place.path)]
    for owner in Owner:
        of_owner = [place for place in found if place.owner is owner]
        if of_owner:
            console.say(f"{owner.value}:")
        for place in of_owner:
            path = place.path if owner is Owner.APP else place.path.resolve()  # of the app's, a link alone is deleted
            console.say(f"  {amount(size_of(path, place.inside)):>8}  {place.title}: {path}")
    console.say(f"{TITLE} itself: {layout.root}")
