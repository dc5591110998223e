"""Finds the caption of each image: in a file beside it or its map, in a folder of captions, in one list for all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.data.layouts.inventory import TEXTS, Inventory
from engine.data.layouts.words import CAPTION, MAP, role_of, same_name
from engine.disk.text import Text, decode, read_text

CAPTION_KEYS = (
    "text", "caption", "prompt", "captions", "texts", "prompts", "description", "long_caption", "short_caption",
    "blip_caption", "caption_llava", "positive", "tags", "tag_string",
)  # fmt: skip
_TEXT_ENDINGS = (".txt", ".caption", *sorted(TEXTS - {".txt", ".caption"}))
_LARGEST_LIST = 256 << 20  # bytes
_MOST_LISTS = 200


def caption_in(path: Path) -> tuple[str, Text | None]:
    """The caption that a file beside an image holds, and how its bytes were read. Raises OSError."""
    read = read_text(path)
    if path.suffix.lower() != ".json":
        return read.text.strip(), read
    try:
        return caption_of(json.loads(read.text)) or "", read
    except (ValueError, RecursionError):
        return "", read


def caption_of(value: Any) -> str | None:
    """The caption in a JSON value: a text, the first of several, or an object with one. None: it holds none."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return next((found for one in value if (found := caption_of(one))), None)
    if isinstance(value, dict):
        lowered = {str(name).lower(): one for name, one in value.items()}
        if isinstance(tags := lowered.get("tags"), list):
            lowered["tags"] = ", ".join(map(str, tags))
        return next((found for name in CAPTION_KEYS if (found := caption_of(lowered.get(name)))), None)
    return None


def text_beside(image: Path) -> Path | None:
    """The file with the caption beside an image that was read before, if there is one."""
    return next((path for ending in _TEXT_ENDINGS if (path := image.with_suffix(ending)).is_file()), None)


class CaptionFinder:
    """Finds captions among the files of an inventory, and remembers which files were used."""

    def __init__(self, inventory: Inventory, ignored: Iterable[Path] = ()) -> None:
        """``ignored``: folders whose texts are no captions, and lists of images."""
        self._inventory, self._folder = inventory, inventory.folder
        self.used: set[Path] = set()
        """Files with captions that belong to an image."""
        self.lists: dict[Path, int] = {}
        """Lists of captions, with the number of images that they had a caption for."""
        left_out = set(ignored)
        self._files = {
            path
            for path in (*inventory.texts, *inventory.lists)
            if path not in left_out and not left_out.intersection(path.parents)
        }

    def file_for(self, image: Path, map: Path | None = None) -> Path | None:
        """The file that holds the caption of an image. It may lie beside the image's map."""
        beside = (found for path in (image, map) if path is not None for found in self._beside(path))
        found = next((path for path in beside if path in self._files), None) or self._in_another_folder(image)
        if found is not None:
            self.used.add(found)
        return found

    def listed_for(self, image: Path) -> str:
        """The caption of an image in a list for all images, or ""."""
        for name in _names_of(image, self._folder):
            if name in self._listed:
                caption, listing = self._listed[name]
                self.lists[listing] = self.lists.get(listing, 0) + 1
                return caption
        return ""

    def _beside(self, path: Path) -> Iterator[Path]:
        """Where other programs put the caption of an image: a.txt, a.png.txt, a..txt, a.json."""
        for ending in _TEXT_ENDINGS:
            yield path.with_name(path.stem + ending)
            yield path.with_name(path.name + ending)
            yield path.with_name(path.stem + "." + ending)
        if (found := self._by_form.get(same_name(path))) is not None:
            yield found
        yield path.with_name(path.stem + ".json")
        yield path.with_name(path.name + ".json")

    def _in_another_folder(self, image: Path) -> Path | None:
        """A text of the same name in a folder that holds no images. None if it is not clear which one."""
        found = self._apart.get(same_name(image.stem)) or self._apart.get(same_name(image.name)) or []
        if len(found) == 1 and self._namesakes[same_name(image.stem)] == 1:
            return found[0]
        # The folders have the same order: images/a/1.png and captions/a/1.txt.
        same_place = [path for path in found if path.parent.name == image.parent.name]
        named = [path for path in found if role_of(path.parent.name) == CAPTION]
        for choice in (same_place, named if self._namesakes[same_name(image.stem)] == 1 else []):
            if len(choice) == 1:
                return choice[0]
        return None

    @cached_property
    def _by_form(self) -> dict[str, Path]:
        """Texts by their paths in the form that ignores case and Unicode's several ways to write a letter."""
        return {same_name(path): path for path in self._files if path.suffix.lower() in TEXTS}

    @cached_property
    def _apart(self) -> dict[str, list[Path]]:
        """Texts in folders without images, by their names."""
        with_images = {path.parent for path in self._inventory.images} | {self._folder}
        apart: dict[str, list[Path]] = {}
        for path in sorted(self._files):
            if path.parent not in with_images and path.suffix.lower() in (*TEXTS, ".json"):
                apart.setdefault(same_name(path.stem), []).append(path)
        return apart

    @cached_property
    def _namesakes(self) -> Counter[str]:
        """How many images, without those in folders of maps, have a name."""
        return Counter(same_name(path.stem) for path in self._inventory.images if role_of(path.parent.name) != MAP)

    @cached_property
    def _listed(self) -> dict[str, tuple[str, Path]]:
        """Captions by the names of images, of every file that lists some."""
        images = self._inventory.images
        known = {name for path in images for name in _names_of(path, self._folder)}
        stems = {same_name(path.stem) for path in images}
        found: dict[str, tuple[str, Path]] = {}
        candidates = [
            path
            for path in sorted(self._files)
            if path.suffix.lower() in (*TEXTS, ".json") and same_name(path.stem) not in stems
        ]
        for path in candidates[:_MOST_LISTS]:
            rows = _rows(path)
            if rows and sum(bool(known & set(_written(name))) for name, _ in rows) >= 0.5 * len(rows):
                for name, caption in rows:
                    for form in _written(name):
                        found.setdefault(form, (caption, path))
        return found


def _names_of(image: Path, folder: Path) -> Iterator[str]:
    """How a list may name an image: by its path or its name, with or without its ending."""
    relative = image.relative_to(folder)
    for path in (relative.as_posix(), image.name):
        yield "/" + same_name(path)
    yield same_name(relative)
    yield same_name(image.stem)


def _written(name: str) -> Iterator[str]:
    """The forms of a name in a list, to be compared with ``_names_of``: with its ending, then without."""
    name = name.replace("\\", "/").removeprefix("./")
    bare = name.rsplit("/", 1)[-1]
    for form in (name, bare):
        yield "/" + same_name(form)
    if "." not in bare or len(bare.rsplit(".", 1)[1]) > 5:
        yield same_name(name)
        yield same_name(bare)
    elif Path(bare).suffix.lower():
        yield same_name(bare.rsplit(".", 1)[0])


def _rows(path: Path) -> list[tuple[str, str]]:
    """(name of an image, caption) of each entry of a list. Empty if the file is no such list."""
    try:
        if path.stat().st_size > _LARGEST_LIST:
            return []
        text = decode(path.read_bytes()).text
    except OSError:
        return []  # it stays unused, which the account of the folder tells
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return []
        entries = content.items() if isinstance(content, dict) else ()
        return [(str(name), caption) for name, value in entries if (caption := caption_of(value))]
    lines = [line for line in text.split("\n") if line.strip()]
    for separator in ("\t", "|", ": ", ":", ",", " "):
        pairs = [line.split(separator, 1) for line in lines]
        if all(len(pair) == 2 and pair[0].strip() for pair in pairs):
            return [(name.strip().strip('"'), caption.strip().strip('"')) for name, caption in pairs]
    return []
