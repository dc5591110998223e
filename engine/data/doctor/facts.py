"""What is measured of an image and its map: figures only, judged later, so that rules can change without reading."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

VERSION = 1  # another measurement of the same file: higher


class _Stored:
    def to_json(self) -> str:
        return json.dumps(asdict(self))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: str | None) -> Self | None:
        return cls(**json.loads(text)) if text else None


@dataclass(frozen=True)
class ImageFacts(_Stored):
    """Of an image that could be read."""

    mode: str
    """Pillow's mode of the file itself."""
    bits: int
    """Bits a channel."""
    orientation: int
    """EXIF orientation, 1 for none."""
    transparent: bool
    """Some pixel is not opaque."""
    spread: int
    """Grey values between the darkest and the lightest half percent of pixels, in the channel that has most."""
    chroma: float
    """Colourfulness, CIE Lab distance from grey that 99% of the pixels stay below."""
    blur: float
    """Standard deviation in pixels of the blur of its sharpest edges, at 512 px; -1 where it has no edges."""
    phash: str
    """Perceptual hash, 16 hexadecimal digits."""
    thumb: str
    """The image at 8 x 8, RGB, hexadecimal."""

    @property
    def grey(self) -> bool:
        return self.chroma < 4


@dataclass(frozen=True)
class MapFacts(_Stored):
    """Of a condition map that could be read. Alignment: see ``alignment.Alignment``."""

    path: str
    digest: str
    width: int
    height: int
    lossy: bool
    """The file's format loses detail: JPEG, lossy WebP."""
    background: int
    """The grey value (within 6) that most pixels have."""
    background_share: float
    pure_share: float
    """Share of pixels that are exactly black or exactly white, whichever are more."""
    noise: float
    """Of the pixels that are not background: share within 30 grey values of it."""
    grid: float
    """Of the steps between background and not: share at every eighth column and row, where JPEG's blocks meet."""
    tonal: float
    """Correlation of its lightness with the image's, no play."""
    known: bool
    """It was compared with a map made anew by the dataset's own type, not with the image."""
    alignment: dict[str, Any]
    phash: str
    thumb: str
    """The map at 16 x 16, grey, hexadecimal."""

    @property
    def lines(self) -> bool:
        """Lines on a plain ground: most of it is one pure value, and it is no copy of the image's lightness."""
        return self.background_share >= 0.55 and self.pure_share >= 0.35 and abs(self.tonal) < 0.9

    @property
    def polarity(self) -> str:
        """Which way round light and dark are, where that can be told from the map alone; "" otherwise."""
        if self.lines:
            return "lines on dark" if self.background < 128 else "lines on light"
        tone = self.alignment["tone"]
        return "" if abs(tone) < 0.8 else "as light as the image" if tone > 0 else "dark where the image is light"
