"""Text on images: finds a font that has the letters, and breaks lines to fit."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

NAMES = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "arial.ttf", "Arial.ttf")
"""Fonts of common systems. They cover more alphabets than Pillow's own."""


@lru_cache(maxsize=32)
def font_of(size: int) -> Font:
    """A font with this height in pixels."""
    for name in NAMES:
        try:
            return ImageFont.truetype(name, max(6, size))
        except OSError:
            continue
    return ImageFont.load_default(max(6, size))


def fitting(text: str, font: Font, width: int, most: int) -> list[str]:
    """At most ``most`` lines, each no wider than ``width`` pixels. A text that does not fit ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words:
        count = len(words)
        while count > 1 and font.getlength(" ".join(words[:count])) > width:
            count -= 1
        line, words = " ".join(words[:count]), words[count:]
        if len(lines) + 1 == most and words:
            line, words = f"{line} {words[0]}", []
            line = _cut(line, font, width, True)
        lines.append(_cut(line, font, width, False))
    return lines


def _cut(line: str, font: Font, width: int, more: bool) -> str:
    if not more and font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"
