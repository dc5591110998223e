"""The datasets and runs in the workspace, as the pages list them: read again every two seconds at most."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.workspace.paths import Workspace

LISTING_SECONDS = 2.0
"""How long a listing is used before the folders are read again."""
Stamp = tuple[tuple[str, int, int], ...]


def is_demo_set(dataset: str) -> bool:
    """Return whether a dataset is a demo set, by its name."""
    return dataset.startswith("demo-")


class Listing:
    """The names of datasets and runs, and the state of one dataset's files."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._names: tuple[float, tuple[str, ...], tuple[str, ...]] = (-LISTING_SECONDS, (), ())
        self._stamp: tuple[float, str, Stamp] = (-LISTING_SECONDS, "", ())

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the datasets and of the runs, newest run first."""
        read_at, datasets, runs = self._names
        if time.monotonic() - read_at > LISTING_SECONDS:
            datasets = tuple(self._workspace.dataset_names())
            runs = tuple(folder.name for folder in self._workspace.run_folders())
            self._names = (time.monotonic(), datasets, runs)
        return datasets, runs

    def stamp_of(self, dataset: str) -> Stamp:
        """Return what changes when the files of a dataset do. Empty if there is no such dataset."""
        read_at, before, found = self._stamp
        if before != dataset or time.monotonic() - read_at > LISTING_SECONDS:
            found = stamp(self._workspace.dataset_folder(dataset)) if dataset else ()
            self._stamp = (time.monotonic(), dataset, found)
        return found

    def changed(self) -> None:
        """Read the folders again at the next call."""
        self._names = (-LISTING_SECONDS, *self.names())
        self._stamp = (-LISTING_SECONDS, "", ())


def stamp(dataset: Path) -> Stamp:
    """Changes when a file of a dataset's folder does: its description, index, captions, decisions or check.

    Reading a database may leave an empty log and an index of it behind, which do not count.
    """
    try:
        with os.scandir(dataset) as entries:
            files = [entry for entry in entries if entry.is_file() and not entry.name.endswith("-shm")]
            facts = [(entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in files]
    except OSError:
        return ()  # not there, or being written: the next look sees it
    return tuple(sorted(one for one in facts if one[1] or not one[0].endswith("-wal")))
