"""Measurements of an image and its map. They are judged later, so that rules can change without reading files again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

VERSION = 2  # increase it when a measurement changes


class _Stored:
    def to_json(self) -> str:
        return json.dumps(asdict(self))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: str | None) -> Self | None:
        return cls(**json.loads(text)) if text else None


@dataclass(frozen=True)
class ImageFacts(_Stored):
    """Measurements of a readable image."""

    mode: str
    """Pillow's mode of the original file."""
    bits: int
    """Bits per channel."""
    orientation: int
    """EXIF orientation, 1 for none."""
    transparent: bool
    """Whether some pixel is not opaque."""
    spread: int
    """Grey values between the darkest and the lightest 0.5 % of the pixels, in the channel with the largest range."""
    chroma: float
    """Colourfulness: the CIE Lab distance from grey that 99 % of the pixels stay below."""
    blur: float
    """Standard deviation of the blur of the sharpest edges, in pixels at 512 px. -1 if there are no edges."""
    phash: str
    """Perceptual hash, 16 hexadecimal digits."""
    thumb: str
    """The image at 8 x 8, RGB, as hexadecimal digits."""

    @property
    def grey(self) -> bool:
        return self.chroma < 4


@dataclass(frozen=True)
class MapFacts(_Stored):
    """Measurements of a readable condition map. For ``alignment`` see ``alignment.Alignment``."""

    path: str
    digest: str
    width: int
    height: int
    lossy: bool
    """Whether the file's format is lossy: JPEG, lossy WebP."""
    background: int
    """The most frequent grey value (within 6)."""
    background_share: float
    pure_share: float
    """Fraction of pixels that are exactly black or exactly white, whichever is more frequent."""
    noise: float
    """Of the pixels that are not background, the fraction within 30 grey values of it."""
    grid: float
    """Fraction of the steps between background and the rest that lie on JPEG's block borders (every eighth pixel)."""
    tonal: float
    """Correlation of its lightness with the image's, without shifts."""
    known: bool
    """Whether it was compared with a new map by the dataset's own type, instead of the image."""
    alignment: dict[str, Any]
    phash: str
    thumb: str
    """The map at 16 x 16, grey, as hexadecimal digits."""
    brightest: int = 255
    """The grey value that 99.8 % of the pixels do not exceed, 0..255. 255 where an earlier version has measured."""

    @property
    def lines(self) -> bool:
        """Whether it has lines on a plain background: most pixels have one pure value, and it is no copy."""
        return self.background_share >= 0.55 and self.pure_share >= 0.35 and abs(self.tonal) < 0.9

    @property
    def polarity(self) -> str:
        """Whether light and dark are swapped, as far as the map alone shows it. Empty if it does not."""
        if self.lines:
            return "lines on dark" if self.background < 128 else "lines on light"
        tone = self.alignment["tone"]
        return "" if abs(tone) < 0.8 else "as light as the image" if tone > 0 else "dark where the image is light"
