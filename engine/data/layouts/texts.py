"""The caption that a text file, or a value of JSON, holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from engine.data.layouts.inventory import TEXTS
from engine.data.layouts.words import CAPTION_COLUMNS
from engine.disk.syntax import fault
from engine.disk.text import Text, read_text

TEXT_ENDINGS = (".txt", ".caption", *sorted(TEXTS - {".txt", ".caption"}))
_LABELS = re.compile(r"(?:\s*\d+(?:[ \t]+-?[\d.]+(?:[eE]-?\d+)?){4,}[ \t]*(?:\n|$))+")


def caption_in(path: Path) -> tuple[str, Text | None]:
    """The caption that a file beside an image holds, and how its bytes were read. Raises OSError."""
    read = read_text(path)
    if "\0" in read.text:
        return "", read
    if path.suffix.lower() != ".json":
        return read.text.strip(), read
    try:
        return caption_of(json.loads(read.text)) or "", read
    except (ValueError, RecursionError):
        return "", read


def mistake_in(path: Path, text: str) -> str:
    """What is wrong with a file of a caption that has this text, without a full stop. "": nothing."""
    if "\0" in text:  # zeros fill a file that a power cut has kept from being written
        return "it contains bytes that are not text"
    if path.suffix.lower() != ".json":
        return ""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return fault(error)
    return ""


def caption_of(value: Any) -> str | None:
    """The caption in a JSON value: a text, the first of several, or an object with one. None: it holds none."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return next((found for one in value if (found := caption_of(one))), None)
    if isinstance(value, dict):
        lowered = {str(name).lower(): one for name, one in value.items()}
        if isinstance(tags := lowered.get("tags"), list):
            lowered["tags"] = ", ".join(map(str, tags))
        if (lowered.get("from") or lowered.get("role")) in ("gpt", "assistant"):  # the answer in a conversation
            return caption_of(lowered.get("value") or lowered.get("content"))
        if lowered and all(len(name) == 2 and isinstance(one, str) for name, one in lowered.items()):  # by language
            return caption_of(lowered.get("en") or next(iter(lowered.values())))
        return next((found for name in CAPTION_COLUMNS if (found := caption_of(lowered.get(name)))), None)
    return None


def is_numbers(text: str) -> bool:
    """Whether a text has only lines of at least five numbers, as the labels of object detection do (YOLO's form)."""
    return bool(_LABELS.fullmatch(text))
