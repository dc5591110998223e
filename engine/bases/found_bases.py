"""Finds the base models on this computer, whether other programs or the user put them there. No torch.

Of a file only the header is read, of a folder only the configs. Nothing is copied or changed: a base is used where it
is.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.bases.catalog import DENOISERS, INDEX, is_complete
from engine.bases.usual_places import Place, entered, name_folder, usual_places
from engine.disk.space import folder_bytes
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.families.facts import of_class, of_config
from engine.families.file_kinds import NoBase, family_of_tensors
from engine.families.files import SINGLE_FILES, shapes_of
from engine.families.unsupported import BaseParts, why_not
from engine.jobs.control import Cancelled, CancelToken
from engine.machine.clock import active_time
from engine.workspace.paths import Workspace, in_hub_cache

SECONDS = 20.0
"""Time limit of a search, also for a disk that does not answer."""
DEPTH = 6
"""How many levels of folders below a place are searched."""
SMALLEST_CKPT = 500_000_000
"""Bytes. A smaller .ckpt is a VAE or another part; larger ones are read only when they are chosen, since that takes
torch."""


@dataclass(frozen=True)
class FoundBase:
    """A base on this computer."""

    path: Path
    """The file, or the folder in diffusers layout: a valid value of the setting *Base model*."""
    family: str
    """A name of ``FamilyFacts``; empty for a .ckpt, which is read only when it is chosen, and for unusual sizes."""
    whose: str
    """The program it was found with."""
    bytes: int

    @property
    def name(self) -> str:
        """The name for people: of the file, or owner/name in the Hugging Face cache."""
        cached = next((part for part in self.path.parts[::-1] if part.startswith("models--")), "")
        return cached.removeprefix("models--").replace("--", "/", 1) if cached else self.path.name


@dataclass
class Search:
    """The result of a search."""

    bases: list[FoundBase] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    """Models that cannot be trained on: what they are, and how many."""
    missing: list[Path] = field(default_factory=list)
    """Folders that the user named and that are not there now."""
    ended: Literal["complete", "time is up"] = "complete"

    def by_family(self) -> dict[str, list[FoundBase]]:
        """The bases of each family, by name; those of unknown family last."""
        names = sorted({base.family for base in self.bases}, key=lambda name: (not name, name))
        return {
            name: sorted((base for base in self.bases if base.family == name), key=lambda base: base.name.lower())
            for name in names
        }


def find_in(
    workspace: Workspace, folder: str | Path, token: CancelToken | None = None, seconds: float = SECONDS
) -> Search:
    """The bases below a folder of the user's, which is remembered in the workspace.

    Raises:
        UserError: there is no such folder. Cancelled.
    """
    place = Path(typed_path(folder)).expanduser().absolute()
    if not place.is_dir():
        raise UserError(
            f"{place} is not a folder.",
            "Base models are searched for in a folder.",
            "Enter the folder that contains your checkpoints.",
        )
    name_folder(workspace, place)
    return _in_time(lambda check: [Place(place, "your folder")], token, seconds)


def find_everywhere(workspace: Workspace, token: CancelToken | None = None, seconds: float = SECONDS) -> Search:
    """The bases in the usual places, and in the folders that the user has named.

    Raises:
        Cancelled.
    """
    return _in_time(lambda check: usual_places(workspace, check), token, seconds)


def _in_time(
    places: Callable[[Callable[[], None]], Iterable[Place]], token: CancelToken | None, seconds: float
) -> Search:
    """Search in a thread, which a network share that does not answer may hold for minutes."""
    search, stop, over = Search(), threading.Event(), threading.Event()
    failure: list[BaseException] = []

    def check() -> None:
        if stop.is_set():
            raise Cancelled

    def run() -> None:
        try:
            _look_into(places(check), search, check)
        except Cancelled:
            pass
        except BaseException as error:
            failure.append(error)
        finally:
            over.set()

    threading.Thread(target=run, name="search for bases", daemon=True).start()
    end = active_time() + seconds
    try:
        while not over.wait(0.05):
            if token:
                token.raise_if_cancelled()
            if active_time() > end:
                return Search(list(search.bases), dict(search.others), list(search.missing), "time is up")
    finally:
        stop.set()
    if failure:
        raise failure[0]
    return search


def _look_into(places: Iterable[Place], search: Search, check: Callable[[], None]) -> None:
    seen: set[str] = set()
    for place in places:
        if place.folder.is_dir():
            _walk(place.folder, place, DEPTH, search, seen, check)
        elif place.whose == "your folder":
            search.missing.append(place.folder)


def _walk(folder: Path, place: Place, depth: int, search: Search, seen: set[str], check: Callable[[], None]) -> None:
    """Add what is in a folder. ``seen``: real paths, since people link one folder of models into several programs."""
    check()
    if (real := os.path.realpath(folder)) in seen:
        return
    seen.add(real)
    base = in_hub_cache(folder)
    if (base / INDEX).is_file():
        _add_folder(base, place, search)
        return
    if base != folder:
        return  # a model of another kind in the cache
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # no permission, or it is gone
    for entry in entries:
        check()
        path = Path(entry.path)
        if entry.is_dir():
            if depth and entered(entry.name):
                _walk(path, place, depth - 1, search, seen, check)
        elif path.suffix.lower() in SINGLE_FILES and (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            _add_file(path, place, search)


def _add_folder(folder: Path, place: Place, search: Search) -> None:
    index, scheduler, vae = (
        _json(folder / name) for name in (INDEX, "scheduler/scheduler_config.json", "vae/config.json")
    )
    denoiser = next((found for part in DENOISERS if (found := _json(folder / part / "config.json"))), {})
    if not denoiser or not of_class(denoiser):
        return _count(search, "models of other kinds")
    facts = of_config(denoiser)  # None: a base of unusual size, such as the demo base
    if not is_complete(folder):
        return _count(search, "incomplete bases")
    if why_not(BaseParts(index, denoiser, scheduler, vae)):
        return _count(search, "bases of kinds that cannot be trained for, such as inpainting")
    search.bases.append(FoundBase(folder, facts.name if facts else "", place.whose, folder_bytes(folder)))


def _add_file(path: Path, place: Place, search: Search) -> None:
    try:
        size = path.stat().st_size
        if path.suffix.lower() == ".safetensors":
            beside = path.with_suffix("")
            own_configs = (beside / INDEX).is_file()
            facts = family_of_tensors(shapes_of(path), own_configs)
            if facts is None:
                facts = of_config(next((c for part in DENOISERS if (c := _json(beside / part / "config.json"))), {}))
            search.bases.append(FoundBase(path, facts.name if facts else "", place.whose, size))
        elif size >= SMALLEST_CKPT:
            search.bases.append(FoundBase(path, "", place.whose, size))
    except NoBase as error:
        _count(search, str(error).split(",")[0].split(" (")[0])
    except (UserError, OSError):
        _count(search, "unreadable files")


def _count(search: Search, what: str) -> None:
    search.others[what] = search.others.get(what, 0) + 1


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
