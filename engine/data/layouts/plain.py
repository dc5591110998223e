"""Images anywhere in a folder and its subfolders, with captions in text files beside them."""

from __future__ import annotations

from pathlib import Path

from engine.data.layouts.model import FolderLayout, FoundImage, image_files, key
from engine.data.samples import Problem


def find(folder: Path, problems: list[Problem]) -> list[FoundImage]:
    """All images of the folder and its subfolders: the layout that always applies."""
    return [FoundImage(key(path, folder), path) for path in image_files(folder, problems)]


PLAIN = FolderLayout("plain", "a folder of images", find)
