"""What img2dataset writes as plain files: 000000001.jpg, .txt with the caption, .json with all it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.data.layouts.model import Found, Layout, caption_file, image_files, key
from engine.data.samples import Problem


def find(folder: Path, problems: list[Problem]) -> list[Found] | None:
    files = image_files(folder, problems)
    first = next(files, None)
    if first is None or not first.stem.isdecimal() or not {"key", "status"} <= _facts(first).keys():
        return None
    return [_found(path, folder) for path in (first, *files)]


def _found(path: Path, folder: Path) -> Found:
    facts = _facts(path)
    caption = None if caption_file(path) else str(facts.get("caption") or "").strip()
    return Found(key(path, folder), path, caption, source=str(facts.get("url") or ""))


def _facts(image: Path) -> dict[str, Any]:
    """The .json beside an image; empty where there is none, or nothing in it that can be read."""
    try:
        facts = json.loads(image.with_suffix(".json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}  # it could only have given a caption, and a missing one is counted
    return facts if isinstance(facts, dict) else {}


IMG2DATASET = Layout("img2dataset", "images downloaded by img2dataset", find)
