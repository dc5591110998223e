"""Finds the files that a list names: as written, or under the same name where the list was made elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from engine.data.layouts.inventory import Inventory
from engine.data.layouts.words import same_name
from engine.disk.image_formats import is_image_name

_PATH_KEYS = ("path", "file_name", "filename", "file", "src", "url")


def name_in(value: Any) -> Any:
    """The name in a cell: also the first of several, and the path in {"path": …, "bytes": …}."""
    if isinstance(value, list):
        return name_in(value[0]) if value else None
    if isinstance(value, dict):
        return next((value[key] for key in _PATH_KEYS if isinstance(value.get(key), str)), None)
    return value


class NamedFiles:
    """The files that a list names."""

    def __init__(self, place: Path, folder: Path, inventory: Inventory) -> None:
        """``place``: the folder of the list. ``folder``: the folder that is read."""
        self._place, self._folder, self._inventory = place, folder, inventory
        self._by_name: dict[str, list[Path]] | None = None

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        try:
            return self.find(name).is_file()
        except (ValueError, OSError, TypeError, AttributeError):
            return False

    def find(self, name: str) -> Path:
        """The path that a row names. Names are relative to the list, or else to the folder.

        Raises one of several errors for a value that cannot be a name.
        """
        name = name.strip().strip("\"'").strip()
        if "://" in name:
            name = unquote(urlsplit(name).path).lstrip("/") or name
        for form in (name, name.replace("\\", "/"), name.replace("\\", "/").lstrip("/")):
            for place in (self._place, self._folder):
                if (path := place / form).is_file():
                    plain = Path(os.path.normpath(path))  # "../maps/1.png", as the inventory writes it
                    return plain if plain.is_file() else path
        form = name.replace("\\", "/")
        alike = self._alike(form)
        if alike is None and "%" in form:  # as an address has it: "my%20cat.png"
            alike = self._alike(unquote(form))
        return alike if alike is not None else self._place / form

    def _alike(self, name: str) -> Path | None:
        """The only image of this name in the folder, if the path to it is another one here, or is spelled otherwise."""
        if ".." in name.split("/"):
            return None
        if self._by_name is None:
            self._by_name = {}
            for path in self._inventory.images_below(self._folder):
                self._by_name.setdefault("/" + same_name(path.name), []).append(path)
                self._by_name.setdefault(same_name(path.stem), []).append(path)
        bare = name.rsplit("/", 1)[-1]
        found = self._by_name.get("/" + same_name(bare), [])
        if not found and "/" in name and not is_image_name(bare):  # "images/1" for images/1.png
            found = self._by_name.get(same_name(bare), [])
        if len(found) > 1:
            found = [path for path in found if same_name(path.as_posix()).endswith("/" + same_name(name))] or [
                path for path in found if path.parent.name == Path(name).parent.name
            ]
        return found[0] if len(found) == 1 else None
