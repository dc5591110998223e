"""Images anywhere below a folder, captions in text files beside them."""

from __future__ import annotations

from pathlib import Path

from engine.data.layouts.model import Found, Layout, image_files, key
from engine.data.samples import Problem


def find(folder: Path, problems: list[Problem]) -> list[Found]:
    return [Found(key(path, folder), path) for path in image_files(folder, problems)]


PLAIN = Layout("plain", "a folder of images", find)
