"""Files written by img2dataset: 000000001.jpg, .txt with the caption, .json with metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.data.layouts.model import FolderLayout, FoundImage, caption_file, image_files, key
from engine.data.samples import Problem


def find(folder: Path, problems: list[Problem]) -> list[FoundImage] | None:
    """All images, if the first one has a number as its name and img2dataset's metadata beside it; else None."""
    files = image_files(folder, problems)
    first = next(files, None)
    if first is None or not first.stem.isdecimal() or not {"key", "status"} <= _facts(first).keys():
        return None
    return [_found(path, folder) for path in (first, *files)]


def _found(path: Path, folder: Path) -> FoundImage:
    facts = _facts(path)
    caption = None if caption_file(path) else str(facts.get("caption") or "").strip()
    return FoundImage(key(path, folder), path, caption, source=str(facts.get("url") or ""))


def _facts(image: Path) -> dict[str, Any]:
    """The .json beside an image. Empty if there is none or it cannot be read."""
    try:
        facts = json.loads(image.with_suffix(".json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}  # only the caption is lost, and missing captions are counted
    return facts if isinstance(facts, dict) else {}


IMG2DATASET = FolderLayout("img2dataset", "images downloaded by img2dataset", find)
