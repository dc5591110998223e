"""Datasets whose images lie elsewhere now: found again inside a workspace that was moved, or told by their owner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.index import Index

if TYPE_CHECKING:
    from engine.data.dataset import Dataset

LOOKED_AT = 3
"""Images that have to lie in a new place before it is believed to be the old one."""


def found_again(folder: Path, source: Path) -> Path | None:
    """Where images that the app itself had put into the workspace lie after that was moved; None: not there.

    Args:
        folder: the dataset's own, in the workspace where it is now.
        source: where the images were.
    """
    workspace = folder.parent.parent
    for length in range(len(source.parts) - 1, 1, -1):  # the longest way that both places share
        candidate = workspace.joinpath(*source.parts[-length:])
        if candidate.exists():
            return candidate
    return None


def follow(folder: Path, description: dict[str, Any], index: Index) -> bool:
    """Where the images have moved with their workspace, change ``description`` and the index; whether it was done."""
    source = Path(description["source"])
    place = None if source.exists() else found_again(folder, source)
    if place is None or place == source:
        return False
    index.prepare()
    index.repoint(source, place)
    description["source"] = str(place)
    return True


def lies_at(dataset: Dataset, place: Path) -> bool:
    """Whether a dataset's images are gone from where they were and lie, under their old names, in another folder."""
    if dataset.source.exists():
        return False
    samples = dataset.index.samples(limit=LOOKED_AT)
    return bool(samples) and all((place / sample.key).is_file() for sample in samples)


def missing_source(dataset: Dataset) -> str:
    """A sentence where the images are not at their place any more, with what to do; empty where they are."""
    if dataset.source.exists():
        return ""
    return (
        f"The images of {dataset.name} were in {dataset.source}, which is not there any more. Put them back (or plug "
        f"the disk in); or, where they were moved, read their new folder on the Dataset tab under the same name, "
        f"{dataset.name}: captions, maps and runs are kept."
    )
