"""Finds the images of a dataset after their folder has moved: inside a moved workspace, or where the user points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.data.index import Index

IMAGES_TO_COMPARE = 3
"""A folder counts as the new place of a dataset if it holds this many of its first images."""


def found_again(folder: Path, source: Path) -> Path | None:
    """Finds images that the app stored inside a workspace which has since moved. None if they are not there.

    Args:
        folder: the dataset's folder, in the workspace's new place.
        source: where the images were before.
    """
    workspace = folder.parent.parent
    for length in range(len(source.parts) - 1, 1, -1):  # longest common end of both paths first
        candidate = workspace.joinpath(*source.parts[-length:])
        if candidate.exists():
            return candidate
    return None


def follow(folder: Path, description: dict[str, Any], index: Index) -> bool:
    """If the images moved with the workspace, updates ``description`` and the index. Returns whether they did."""
    source = Path(description["source"])
    place = None if source.exists() else found_again(folder, source)
    if place is None or place == source:
        return False
    index.prepare()
    index.move_paths(source, place)
    description["source"] = str(place)
    return True


def lies_at(source: Path, index: Index, place: Path) -> bool:
    """Whether the images of ``index`` have gone from ``source`` and lie under the same names in ``place``."""
    if source.exists():
        return False
    samples = index.samples(limit=IMAGES_TO_COMPARE)
    return bool(samples) and all((place / sample.key).is_file() for sample in samples)


def missing_source(name: str, source: Path) -> str:
    """Tells the user what to do when the source folder of a dataset is gone. Empty if it is there."""
    if source.exists():
        return ""
    return (
        f"The images of {name} were in {source}, which is no longer there. Put them back or connect the disk. "
        f"If you moved them, read the new folder on the Dataset tab under the same name, {name}: captions, maps and "
        f"runs are kept."
    )
