"""The declaration of a folder layout, and functions that layouts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.data.layouts.inventory import Inventory
from engine.data.samples import Problem


@dataclass(frozen=True)
class FoundImage:
    """An image that was found but not read yet."""

    key: str
    image: Path
    caption: str = ""
    """From a list. Empty: it is in ``caption_path``, if there is one."""
    caption_path: Path | None = None
    """The file with the caption, which is read with the image."""
    condition: Path | None = None
    source: str = ""
    """Where it came from, if the layout knows."""
    otherwise: str = ""
    """The caption if no file holds one."""
    halves: tuple[str, ...] = ()
    """Roles of its left and its right half, if these are to be cut apart. Empty: the image is read whole."""
    weight: float = 1.0
    """Loss weight; ``Sample.weight``."""


@dataclass(frozen=True)
class Part:
    """A folder, a column of a list, or an ending of file names, and what it was taken for."""

    name: str
    kind: str
    """"folder", "column", "ending", "half" of each image, or "split" for a folder such as train or validation."""
    role: str
    """A role of ``words.ROLES``."""
    count: int = 0
    """Number of its images, or of its rows with a value."""
    examples: tuple[str, ...] = ()
    """A few of its files or values."""


@dataclass
class Reading:
    """The state of recognizing a folder's layout: input, and what the layouts add."""

    root: Path
    inventory: Inventory
    asked: Mapping[str, str] = field(default_factory=dict)
    """Roles that the user gave to parts, by their names."""
    problems: list[Problem] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    """Why the user should look at the roles, as sentences."""
    doubts_without_maps: list[str] = field(default_factory=list)
    """Those that count only if no layout finds maps."""
    notes: list[str] = field(default_factory=list)
    """What else the user should know, as sentences."""
    lists: list[Path] = field(default_factory=list)
    """Lists that were used."""
    captions: set[Path] = field(default_factory=set)
    """Files that hold the caption of one image."""
    no_captions: set[Path] = field(default_factory=set)
    """Text and JSON files with the name of an image that hold no caption, but numbers or other data."""
    deep_maps: dict[str, list[Path]] = field(default_factory=dict)
    """Maps with more than 8 bits, by how they are brought to 8 bits."""
    deep_images: dict[str, list[Path]] = field(default_factory=dict)
    """Such images."""
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    """Reason -> images that the layout did not take."""

    def role(self, part: str, guess: str) -> str:
        """The role of a part: what the user said, or else the guess."""
        return self.asked.get(part, guess)

    def add(self, part: Part) -> None:
        """Note a part. Parts of the same name in several folders count as one."""
        before = self.parts.get(part.name)
        if before is not None:
            part = Part(part.name, part.kind, part.role, before.count + part.count, before.examples or part.examples)
        self.parts[part.name] = part

    def leave_out(self, reason: str, paths: list[Path]) -> None:
        """Note images that are not taken. The reason is a sentence."""
        if paths:
            self.left_out.setdefault(reason, []).extend(paths)

    def attempt(self) -> Reading:
        """A copy for a layout that may turn out not to fit."""
        return Reading(self.root, self.inventory, self.asked)

    def accept(self, attempt: Reading, fits: bool = True) -> None:
        """Take over what an attempt found out. ``fits``: False for a layout that turned out not to fit."""
        self.problems += attempt.problems
        self.doubts_without_maps += attempt.doubts_without_maps
        if not fits:
            self.doubts_without_maps += attempt.doubts
            attempt.doubts = []
        self.doubts += [doubt for doubt in attempt.doubts if doubt not in self.doubts]
        self.notes += attempt.notes
        self.lists += attempt.lists
        for part in attempt.parts.values():
            self.add(part)
        for reason, paths in attempt.left_out.items():
            self.leave_out(reason, paths)


@dataclass(frozen=True)
class FolderLayout:
    """One way of organizing images in a folder."""

    name: str
    title: str
    """Description of what was found, for the page."""
    find: Callable[[Path, Reading], list[FoundImage] | None]
    """find(folder, reading) -> images, or None if the folder has another layout."""


def key(path: Path, folder: Path) -> str:
    """The path relative to the folder, with forward slashes. Raises ValueError if it is not inside."""
    return path.relative_to(folder).as_posix()


# The dataset check recognizes these sentences.
NO_MAP = "This image has no condition map."
NO_IMAGE = "This condition map has no image."


def image_without_map(path: Path, why: str, try_this: str) -> Problem:
    """The problem of an image in a paired dataset without a map."""
    return Problem(path, NO_MAP, why, try_this)


def map_without_image(path: Path, images: str) -> Problem:
    """The problem of a map without an image. ``images``: name of the folder of images."""
    return Problem(
        path,
        NO_IMAGE,
        f"There is no file named {path.stem} in {images}.",
        "Add the image under the map's name, or delete the map.",
    )
