"""Classes of images: how many images each folder has, and each word of the captions."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from engine.data.balance import folder_of
from engine.data.doctor.finding import Finding, Hit
from engine.data.samples import Sample
from engine.machine.units import counted

LARGER = 3
"""Times as many images in the largest folder as in the smallest, from which on it is reported."""
MOST_FOLDERS = 50
"""More folders are no classes, but parts of a large dataset or folders of single images."""
MOST_SHOWN = 24
TOO_USUAL = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "in", "into", "is", "it", "its", "of",
        "on", "or", "that", "the", "their", "there", "this", "to", "was", "with",
    }
)  # fmt: skip
"""Words that name no class."""
FOLDERS, WORDS = "folders", "words"
"""Names of the counts in the results of a check."""

FOLDER_SIZES = Finding(
    "class_folders",
    "Folders of very different sizes",
    "Each image is drawn once in each epoch, so the net learns mostly from the large folders. If folders stand for "
    "classes, the small ones are learned late or not at all.",
    "Set Class balance to folder on the Train tab (command line: data.balance), which draws all folders equally often, "
    "or add images to the small ones.",
    "note",
    whole=True,
)
FINDINGS = (FOLDER_SIZES,)


class ClassCounts:
    """Counts images by folder and by word while a dataset is read."""

    def __init__(self) -> None:
        self.folders: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        """For each word the images whose caption contains it, in lower case."""
        self._first: dict[str, str] = {}  # key of a folder's first image

    def add(self, sample: Sample) -> None:
        """Count one image."""
        folder = folder_of(sample.key)
        self.folders[folder] += 1
        self._first.setdefault(folder, sample.key)
        found = set(re.findall(r"[^\W\d_]{2,}", sample.caption.lower()))
        self.words.update(found - TOO_USUAL)

    def hits(self) -> Iterator[Hit]:
        """One hit for each folder, if their sizes are very different."""
        sizes = self.folders.values()
        shards = all(folder.rpartition("/")[2].isdecimal() for folder in self.folders)  # of img2dataset
        if not 2 <= len(sizes) <= MOST_FOLDERS or shards or max(sizes) < LARGER * min(sizes):
            return
        for folder, count in self.folders.items():
            share = count / sum(sizes)
            yield Hit(FOLDER_SIZES.name, self._first[folder], f"{folder}: {counted(count, 'image')}, {share:.1%}")

    def about(self) -> dict[str, str]:
        """The largest counts, as a check's results keep them."""

        def largest(counts: Counter[str]) -> list[tuple[str, int]]:
            return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:MOST_SHOWN]

        kept = {FOLDERS: largest(self.folders), WORDS: largest(self.words)}
        return {name: json.dumps(counts, ensure_ascii=False) for name, counts in kept.items()}


def counts_in(about: Mapping[str, str], name: str) -> list[tuple[str, int]]:
    """The counts of ``FOLDERS`` or ``WORDS`` in a check's results, the largest first; empty: it was not counted."""
    return [(str(of), int(count)) for of, count in json.loads(about.get(name, "[]"))]
