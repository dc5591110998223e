"""Whether the images on the disk are still those that were read: deleted and changed files are found and named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.disk.images import digest

MOST = 2000
"""Images looked at, evenly from all: a set of 100,000 on a slow disk must not hold a start up."""
PAGE = 500


@dataclass(frozen=True)
class Changed:
    looked_at: int
    files: tuple[Path, ...]
    """Images that are gone or hold something else than when they were read."""

    @property
    def sentence(self) -> str:
        """For people; empty where nothing has changed."""
        if not self.files:
            return ""
        return (
            f"{len(self.files):,} of {self.looked_at:,} images looked at have changed or are gone since the folder "
            f"was read ({self.files[0].name} is the first). The run goes on with what was prepared of them. To train "
            "on the new ones, read the folder again on the Dataset tab and start a new run."
        )


def changed_since_read(dataset: Dataset, most: int = MOST) -> Changed:
    """Look at up to ``most`` images, evenly from all; a file is read only where its size or date is another."""
    total = dataset.index.count()
    stride = max(1, -(-total // most))
    looked, files = 0, []
    for offset in range(0, total, PAGE):
        for number, sample in enumerate(dataset.index.samples(offset, PAGE), offset):
            if number % stride == 0:
                looked += 1
                if _is_another(sample):
                    files.append(sample.image)
    return Changed(looked, tuple(files))


def _is_another(sample: Sample) -> bool:
    try:
        state = sample.image.stat()
        if (state.st_size, state.st_mtime_ns) == (sample.bytes, sample.mtime_ns) or not sample.digest:
            return False
        return state.st_size != sample.bytes or digest(sample.image) != sample.digest
    except OSError:
        return True
