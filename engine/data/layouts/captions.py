"""Finds the caption of each image: in a file beside it or its map, in a folder of captions, in one list for all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from engine.data.layouts.caption_lists import captions_in, names_of, written
from engine.data.layouts.inventory import LISTS, TEXTS
from engine.data.layouts.model import FoundImage, Part, Reading
from engine.data.layouts.texts import TEXT_ENDINGS
from engine.data.layouts.words import CAPTION, IGNORED, caption_endings, image_bases, role_of, same_name
from engine.disk.dates import shows_changes
from engine.machine.units import counted

_MOST_LISTS = 200


class TextsBeside:
    """Finds the file with an image's caption in the image's folder: a.txt, a.png.txt, a..txt, a_caption.txt, a.json."""

    def __init__(self, files: Collection[Path]) -> None:
        self._files = files
        self._folders = {path.parent for path in files}

    def find(self, image: Path) -> Path | None:
        """The file, or None. Which program wrote it decides its name; endings of texts come first."""
        if image.parent not in self._folders:
            return None
        return next((path for path in self._candidates(image) if path in self._files), None)

    def _candidates(self, image: Path) -> Iterator[Path]:
        for ending in TEXT_ENDINGS:
            yield image.with_name(image.stem + ending)
            yield image.with_name(image.name + ending)
            yield image.with_name(image.stem + "." + ending)
        if (found := self._by_form.get(same_name(image))) is not None:
            yield found
        yield image.with_name(image.stem + ".json")
        yield image.with_name(image.name + ".json")

    @cached_property
    def _by_form(self) -> dict[str, Path]:
        """Texts by their paths in the form that ignores case, Unicode's several ways to write a letter, "_caption"."""
        texts = sorted(path for path in self._files if path.suffix.lower() in TEXTS)
        found = {}
        for path in texts:
            for base in caption_endings(path.stem):
                found[same_name(path.with_name(base + path.suffix))] = path
        return found | {same_name(path): path for path in texts}


def text_beside(image: Path) -> Path | None:
    """The file with the caption beside an image that was read before, if there is one."""
    try:
        changed = image.parent.stat().st_mtime_ns
        texts_in = _texts_in if shows_changes(changed) else _texts_in.__wrapped__
        return texts_in(image.parent, changed).find(image)
    except OSError:
        return None


@lru_cache(maxsize=4)
def _texts_in(folder: Path, changed: int) -> TextsBeside:
    """The texts of a folder that was last changed then, read once for all of its images. Raises OSError."""
    return TextsBeside({path for path in folder.iterdir() if path.suffix.lower() in (*TEXTS, ".json")})


class CaptionFinder:
    """Finds captions among the files of an inventory, and remembers which files were used."""

    def __init__(self, images: Sequence[FoundImage], reading: Reading) -> None:
        self._images, self._reading = images, reading
        self._folder = reading.inventory.folder
        self.used: set[Path] = set()
        """Files with captions that belong to an image."""
        self.lists: dict[Path, int] = {}
        """Lists of captions, with the number of images that they had a caption for."""
        left_out = set(reading.lists)
        self._files = {path for path in (*reading.inventory.texts, *reading.inventory.lists) if path not in left_out}
        self._beside = TextsBeside(self._files)

    def file_for(self, image: Path, map: Path | None = None) -> Path | None:
        """The file that holds the caption of an image. It may lie beside the image's map."""
        found = self._beside.find(image) or (self._beside.find(map) if map else None)
        found = found or self._of_the_folder.get(image.parent) or self._in_another_folder(image)
        found = found or self._for_a_part_of_the_name(image, map)
        if found is not None:
            self.used.add(found)
        return found

    def listed_for(self, image: Path) -> str:
        """The caption of an image in a list for all images, or ""."""
        for name in names_of(image, self._folder) if self._listed else ():
            if name in self._listed:
                caption, listing = self._listed[name]
                self.lists[listing] = self.lists.get(listing, 0) + 1
                return caption
        return ""

    def _in_another_folder(self, image: Path) -> Path | None:
        """A text of the same name in a folder that holds no images. None if it is not clear which one."""
        found = self._apart.get(same_name(image.stem)) or self._apart.get(same_name(image.name)) or []
        alone = self._namesakes[same_name(image.stem)] == 1
        if len(found) == 1 and alone:
            return found[0]
        # The folders have the same order: images/a/1.png and captions/a/1.txt.
        same_place = [path for path in found if path.parent.name == image.parent.name]
        named = [path for path in found if role_of(path.parent.name) == CAPTION]
        for choice in (same_place, named if alone else []):
            if len(choice) == 1:
                return choice[0]
        if not alone:
            return None
        return min(found, key=lambda path: self._ranks.get(path.parent, len(self._ranks)), default=None)

    def _for_a_part_of_the_name(self, image: Path, map: Path | None) -> Path | None:
        """The text of a sample of several files: 1.txt for 1.image.jpg and 1.canny.png, a.txt for a_rgb.png."""
        for base in _parts(image, map):
            name = image.with_name(base + image.suffix)
            if self._owners[same_name(name)] == 1 and (found := self._beside.find(name)) is not None:
                return found
            apart = self._apart.get(same_name(base), [])
            if self._owners[same_name(base)] == len(apart) == 1:
                return apart[0]
        return None

    @cached_property
    def _owners(self) -> Counter[str]:
        """How many images a name or a part of one may belong to, with the folder and without it."""
        owners: Counter[str] = Counter()
        for item in self._images:
            for base in {item.image.stem, *_parts(item.image, item.condition)}:
                owners.update((same_name(item.image.with_name(base + item.image.suffix)), same_name(base)))
        return owners

    @cached_property
    def _of_the_folder(self) -> dict[Path, Path]:
        """caption.txt, prompt.txt and so on, in folders with one image each."""
        alone = Counter(item.image.parent for item in self._images)
        texts: dict[Path, list[Path]] = {}
        for path in sorted(self._files):
            if alone[path.parent] == 1 and path.parent != self._folder and path.suffix.lower() in TEXTS:
                texts.setdefault(path.parent, []).append(path)
        named = {folder: [path for path in paths if _of_one(path)] for folder, paths in texts.items()}
        return {folder: paths[0] for folder, paths in named.items() if len(paths) == 1}

    @cached_property
    def _apart(self) -> dict[str, list[Path]]:
        """Texts in folders without images, by their names."""
        with_images = {path.parent for path in self._reading.inventory.images} | {self._folder}
        apart: dict[str, list[Path]] = {}
        for path in sorted(self._files):
            if path.parent not in with_images and path.suffix.lower() in (*TEXTS, ".json"):
                said = self._reading.asked.get(self._name(path.parent), "")
                if said:
                    self._reading.add(Part(self._name(path.parent), "captions", said, 1))
                for name in [] if said == IGNORED else dict.fromkeys((path.stem, *caption_endings(path.stem))):
                    apart.setdefault(same_name(name), []).append(path)
        return apart

    @cached_property
    def _ranks(self) -> dict[Path, int]:
        """Folders that hold several captions of the same images, the one to be used first. The user is asked."""
        wanted = self._namesakes
        counts = Counter(
            path.parent for name, paths in self._apart.items() if wanted[name] == 1 and len(paths) > 1 for path in paths
        )
        asked = self._reading.asked
        ranked = sorted(
            counts,
            key=lambda folder: (
                asked.get(self._name(folder)) != CAPTION, role_of(folder.name) != CAPTION, -counts[folder], folder
            ),
        )  # fmt: skip
        for number, folder in enumerate(ranked):
            role = IGNORED if number else CAPTION
            if self._name(folder) not in asked:
                self._reading.add(Part(self._name(folder), "captions", role, counts[folder]))
        if ranked and not any(self._name(folder) in asked for folder in ranked):
            names = ", ".join(map(self._name, ranked))
            self._reading.doubts.append(f"Several folders contain captions: {names}. {self._name(ranked[0])} was used.")
        return {folder: number for number, folder in enumerate(ranked)}

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self._folder).as_posix()

    @cached_property
    def _namesakes(self) -> Counter[str]:
        """How many of the images have a name."""
        return Counter(same_name(item.image.stem) for item in self._images)

    @cached_property
    def _listed(self) -> dict[str, tuple[str, Path]]:
        """Captions by the names of images, of every file that lists some."""
        stems = {same_name(path.stem) for path in self._reading.inventory.images}
        candidates = [
            path
            for path in sorted(self._files - self.used)
            if path.suffix.lower() in (*TEXTS, *LISTS) and same_name(path.stem) not in stems
        ]
        if not candidates:
            return {}
        names = Counter(name for item in self._images for name in set(names_of(item.image, self._folder)))
        known = {name for name, count in names.items() if count == 1}
        found: dict[str, tuple[str, Path]] = {}
        several: Counter[Path] = Counter()
        for path in candidates[:_MOST_LISTS]:
            for name, caption in captions_in(path, known):
                forms = known.intersection(written(name))
                several[path] += any(form in found and found[form][1] == path for form in forms)
                for form in forms:
                    found.setdefault(form, (caption, path))
        for path, count in several.items():
            if count:
                self._reading.notes.append(
                    f"{path.name} has {counted(count, 'more caption')} for images that already have one."
                )
        return found


def _parts(image: Path, map: Path | None) -> list[str]:
    """The part that an image's name shares with its map beside it, and the name without words such as "rgb"."""
    found = [base for base in image_bases(image.stem) if base and base != image.stem]
    if map is not None and map.parent == image.parent and map.stem != image.stem:
        found.append(os.path.commonprefix([image.stem, map.stem]).rstrip("-_. "))
    return [base for base in dict.fromkeys(found) if base and base != image.stem]


def _of_one(path: Path) -> bool:
    """Whether a text's name is that of one caption: "prompt.txt". "captions.txt" may list several."""
    return role_of(path.stem) == CAPTION and not path.stem.lower().endswith("s")
