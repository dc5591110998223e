"""Files written by img2dataset: 000000001.jpg, .txt with the caption, .json with metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.data.layouts.model import FolderLayout, FoundImage, Reading, key


def find(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """All images, if the first one has a number as its name and img2dataset's metadata beside it; else None."""
    images = reading.inventory.images_below(folder)
    if not images or not images[0].stem.isdecimal() or not {"key", "status"} <= _facts(images[0]).keys():
        return None
    return [_found(path, reading) for path in images]


def _found(path: Path, reading: Reading) -> FoundImage:
    facts = _facts(path)
    caption = str(facts.get("caption") or "").strip()
    return FoundImage(key(path, reading.root), path, source=str(facts.get("url") or ""), otherwise=caption)


def _facts(image: Path) -> dict[str, Any]:
    """The .json beside an image. Empty if there is none or it cannot be read."""
    try:
        facts = json.loads(image.with_suffix(".json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}  # only the caption is lost, and missing captions are counted
    return facts if isinstance(facts, dict) else {}


IMG2DATASET = FolderLayout("img2dataset", "images downloaded by img2dataset", find)
