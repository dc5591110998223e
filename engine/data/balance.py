"""Class balance: how often the images of each class are drawn, so that small classes are not lost among large ones.

A class is a folder, or the captions with a word. Each class has an endless order of its own images (see
``training/batches.py``), so no image is copied, and a run's order depends on its seed and on the classes alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.config.data import DataConfig
from engine.data.samples import Sample
from engine.machine.units import counted

REPEATS = re.compile(r"([1-9]\d{0,2})_(.*\S.*)")
"""A folder's name with repeats and a text, as kohya's scripts read it. At most three digits: 2019_summer is a year."""
ROOT = "the folder itself"
NO_WORD = "none of these words"
MOST_NAMED = 6


@dataclass(frozen=True)
class ImageClass:
    """Some images of a run, and how often they are drawn."""

    name: str
    """For people."""
    rows: tuple[int, ...]
    """Numbers of its samples, at least one."""
    draws: int
    """Images drawn from it in one epoch. In as many draws as it has images, each is drawn once."""

    @property
    def times(self) -> float:
        """How often each image is drawn in one epoch, on average."""
        return self.draws / len(self.rows)


def folder_of(key: str) -> str:
    """The folder of an image within its dataset, for people."""
    return key.rpartition("/")[0] or ROOT


def repeats_of(key: str) -> int:
    """The number that the nearest folder named like 10_name gives to an image; 1 if there is none."""
    return next((int(found[1]) for part in reversed(key.split("/")[:-1]) if (found := REPEATS.fullmatch(part))), 1)


def class_words(text: str) -> tuple[str, ...]:
    """The words and phrases of the setting Class words, in its order."""
    return tuple(dict.fromkeys(word for part in text.split(",") if (word := " ".join(part.split()))))


def has_word(caption: str, word: str) -> bool:
    """Whether a caption contains a word or phrase, in either case: "cat" is not in "catalogue"."""
    edges = (r"(?<!\w)", r"(?!\w)") if word.isascii() else ("", "")  # some languages have no spaces between words
    spaced = r"\s+".join(map(re.escape, word.split()))
    return re.search(f"{edges[0]}{spaced}{edges[1]}", caption, re.IGNORECASE) is not None


def classes_of(samples: Sequence[Sample], data: DataConfig) -> tuple[ImageClass, ...]:
    """The classes of the images that a run trains on, whose numbers are those in ``samples``, which is not empty.

    Without class balance all are one class, drawn once in each epoch.
    """
    if data.balance == "off":
        return (ImageClass("", tuple(range(len(samples))), len(samples)),)
    if data.balance == "repeats":
        folders = _grouped([folder_of(sample.key) for sample in samples])
        return tuple(
            ImageClass(name, rows, len(rows) * repeats_of(samples[rows[0]].key)) for name, rows in folders.items()
        )
    if data.balance == "folder":
        groups = _grouped([folder_of(sample.key) for sample in samples])
    else:
        words = class_words(data.balance_words)
        named = ([word for word in words if has_word(sample.caption, word)] for sample in samples)
        groups = _grouped([found[0] if found else NO_WORD for found in named])
    rest = groups.pop(NO_WORD, ()) if data.balance == "word" else ()
    largest = max(map(len, groups.values()), default=0)
    found = [ImageClass(name, rows, largest) for name, rows in groups.items()]
    return (*found, *([ImageClass(NO_WORD, rest, len(rest))] if rest else []))


def _grouped(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Numbers of the images by their class, in the order of the names."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return {name: tuple(rows[name]) for name in sorted(rows)}


def words_about(classes: Sequence[ImageClass]) -> str:
    """How often the images of each class are drawn, for people: the smallest classes first."""
    ordered = sorted(classes, key=lambda one: -one.times)
    said = [f"{one.name} ({counted(len(one.rows), 'image')}): {_often(one.times)}" for one in ordered[:MOST_NAMED]]
    left = len(ordered) - len(said)
    return ", ".join(said) + (f", and {counted(left, 'more class', 'more classes')}" if left else "")


def _often(times: float) -> str:
    return "once" if times == 1 else f"{times:.3g} times"


def doubts(classes: Sequence[ImageClass], data: DataConfig) -> Iterator[str]:
    """Why class balance does nothing, or less than it may seem to, as sentences."""
    if data.balance == "word":
        there = Counter(one.name for one in classes)
        missing = [word for word in class_words(data.balance_words) if word not in there]
        if missing:
            yield f"No caption belongs to the class {', '.join(missing)}."
    if len({one.times for one in classes}) == 1:
        yield "Class balance changes nothing here: " + (
            "the names of the folders give all images the same number."
            if data.balance == "repeats"
            else "there is only one class."
            if len(classes) == 1
            else "all classes are equally large."
        )
