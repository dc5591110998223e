"""Pictures anywhere below a folder, captions in text files beside them."""

from __future__ import annotations

from pathlib import Path

from engine.data.layouts.model import Found, Layout, caption_beside, key, pictures
from engine.data.samples import Problem


def find(folder: Path, problems: list[Problem]) -> list[Found]:
    return [Found(key(path, folder), path, caption_beside(path)) for path in pictures(folder)]


PLAIN = Layout("plain", "a folder of pictures", find)
