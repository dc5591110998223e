"""Text files that name the images kept for validation, as in PASCAL VOC: ImageSets/Main/train.txt and val.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.data.layouts.model import FoundImage, Part, Reading
from engine.data.layouts.words import IGNORED, IMAGE, is_split, is_validation, same_name
from engine.disk.image_formats import is_image_name
from engine.disk.text import read_text
from engine.machine.units import counted

_MOST_BYTES = 64 << 20
_MOST_FILES = 64
_NEARLY_ALL = 0.9


def read_split_lists(images: list[FoundImage], reading: Reading) -> list[FoundImage]:
    """The images, without those of a list of validation that the user called ignored. Adds a doubt about the others."""
    names = {same_name(item.image.stem) for item in images}
    lists = [path for path in reading.inventory.texts if is_split(path.stem) and same_name(path.stem) not in names]
    named = {path: listed for path in lists[:_MOST_FILES] if (listed := _names_in(path, names))}
    if not any(is_validation(path.stem) for path in named):
        return images
    reading.lists += named
    training: dict[Path, set[str]] = {}
    for path, listed in named.items():
        if not is_validation(path.stem):
            training.setdefault(path.parent, set()).update(listed)
    found = images
    for path, listed in named.items():
        kept = listed - training.get(path.parent, listed)
        if is_validation(path.stem) and kept:
            found = _without(found, kept, path, reading)
    return found


def _without(images: Sequence[FoundImage], kept: set[str], path: Path, reading: Reading) -> list[FoundImage]:
    name = path.relative_to(reading.root).as_posix()
    inside = [item for item in images if same_name(item.image.stem) in kept]
    role = reading.role(name, IMAGE)
    reading.add(Part(name, "list", role, len(inside), tuple(str(item.image) for item in inside[:3])))
    if role != IGNORED:
        if inside and name not in reading.asked:
            reading.doubts.append(
                f"{name} names {counted(len(inside), 'image')} that {path.with_name('train.txt').name} does not, "
                "probably kept for validation: they were also read, unless you set their role to ignored."
            )
        return list(images)
    files = [file for item in inside for file in (item.image, item.condition) if file is not None]
    reading.leave_out("ignored, as you said", files)
    return [item for item in images if same_name(item.image.stem) not in kept]


def _names_in(path: Path, known: set[str]) -> set[str]:
    """The images that a text names, one in each line, perhaps with numbers behind it. Empty: another text."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return set()
        lines = [line.split() for line in read_text(path).text.splitlines() if line.strip()]
    except OSError:
        return set()
    if any(is_image_name(word) for words in lines for word in words[1:]):
        return set()  # pairs of names
    names = {name for words in lines for name in _forms(words[0]) if name in known}
    return names if lines and len(names) >= _NEARLY_ALL * len(lines) else set()


def _forms(word: str) -> tuple[str, ...]:
    """ "2007_000032", "JPEGImages/2007_000032.jpg"."""
    bare = word.replace("\\", "/").rsplit("/", 1)[-1]
    return (same_name(bare), same_name(bare.rsplit(".", 1)[0]))
