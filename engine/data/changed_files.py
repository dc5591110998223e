"""Finds images that were deleted or changed since the folder was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.disk.images import digest
from engine.machine.units import counted, plural

MOST = 2000
"""Most images to check, evenly spread: 100,000 images on a slow disk must not delay a start."""
PAGE = 500


@dataclass(frozen=True)
class ChangedFiles:
    looked_at: int
    files: tuple[Path, ...]
    """Images that are missing or have changed since they were read."""

    @property
    def sentence(self) -> str:
        """A warning for the user. Empty if nothing has changed."""
        if not self.files:
            return ""
        return (
            f"{len(self.files):,} of {counted(self.looked_at, 'checked image')} "
            f"{plural(len(self.files), 'has changed or is missing', 'have changed or are missing')} since the "
            f"folder was read (first: {self.files[0].name}). The run continues with the prepared data. To train "
            "on the new images, read the folder again on the Dataset tab and start a new run."
        )


def changed_since_read(dataset: Dataset, most: int = MOST) -> ChangedFiles:
    """Checks up to ``most`` images, evenly spread. Reads a file only if its size or date has changed."""
    total = dataset.index.count()
    stride = max(1, -(-total // most))
    looked, files = 0, []
    for offset in range(0, total, PAGE):
        for number, sample in enumerate(dataset.index.samples(offset, PAGE), offset):
            if number % stride == 0:
                looked += 1
                if _is_another(sample):
                    files.append(sample.image)
    return ChangedFiles(looked, tuple(files))


def _is_another(sample: Sample) -> bool:
    try:
        state = sample.image.stat()
        if (state.st_size, state.st_mtime_ns) == (sample.bytes, sample.mtime_ns) or not sample.digest:
            return False
        return state.st_size != sample.bytes or digest(sample.image) != sample.digest
    except OSError:
        return True
