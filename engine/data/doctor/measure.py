"""Measures an image and its map. Decodes every file once, mostly without holding Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
from PIL import Image

from engine.data.doctor.alignment import align
from engine.data.doctor.facts import ImageFacts, MapFacts
from engine.disk.image_formats import orientation, upright
from engine.disk.images import digest, opened, to_rgb

SIDE = 512  # shorter side for measuring blur
REFERENCE_SIDE = 1024  # an image is scaled down to this before its map is made for comparison
THUMB, MAP_THUMB = 8, 16
_BITS_PER_SAMPLE = 258  # TIFF tag

Extract = Callable[[np.ndarray], np.ndarray]
"""Makes the map of an image, RGB uint8 (h, w, 3) in and out."""


def measure_image(path: Path, old_ground: bool = False) -> tuple[ImageFacts, Image.Image]:
    """Measures an image. Returns the image as well: RGB, shorter side at least SIDE unless it is smaller.

    Raises UserError for a file that cannot be used.
    """
    with opened(path) as image:
        mode, bits, turned = image.mode, _bits(image, path), orientation(image)
        image.draft(None, (SIDE, SIDE))  # decodes JPEGs several times faster, to at least this size
        image.load()
        transparent = image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255
        picture = to_rgb(upright(image), old_ground=old_ground)
    pixels = np.asarray(picture)
    small = cv2.resize(pixels, (128, 128), interpolation=cv2.INTER_AREA)
    low, high = np.quantile(small.reshape(-1, 3), [0.005, 0.995], axis=0)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32) - 128
    facts = ImageFacts(
        mode=mode,
        bits=bits,
        orientation=turned,
        transparent=bool(transparent),
        spread=int((high - low).max()),
        chroma=round(float(np.quantile(np.hypot(lab[..., 1], lab[..., 2]), 0.99)), 2),
        blur=round(blur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)), 3),
        phash=perceptual_hash(small),
        thumb=_thumb(small),
    )
    return facts, picture


def measure_map(path: Path, picture: Image.Image, extract: Extract | None, old_ground: bool = False) -> MapFacts:
    """Measures a map and compares it with its image.

    ``extract`` makes a new map for comparison. Without it, the image's lightness is the reference.

    Raises UserError for a file that cannot be used.
    """
    with opened(path) as image:
        lossy = _lossy(image, path)
        map = np.asarray(to_rgb(upright(image), is_map=True, old_ground=old_ground))
    grey = cv2.cvtColor(map, cv2.COLOR_RGB2GRAY)
    if (scale := REFERENCE_SIDE / min(picture.size)) < 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    light = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2GRAY)
    made = cv2.cvtColor(extract(np.asarray(picture)), cv2.COLOR_RGB2GRAY) if extract else None
    known = made is not None and int(made.max()) > int(made.min())
    counts = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    near = np.convolve(counts, np.ones(13), "same")
    background = int(near.argmax())
    pure = max(0, 255, key=lambda value: counts[value])
    away = np.abs(grey.astype(np.int16) - pure)
    found = align(made if known and made is not None else light, grey)
    small = cv2.resize(map, (128, 128), interpolation=cv2.INTER_AREA)
    return MapFacts(
        path=str(path),
        digest=digest(path),
        width=grey.shape[1],
        height=grey.shape[0],
        lossy=lossy,
        background=background,
        background_share=float(near.max()) / grey.size,
        pure_share=float(counts[pure]) / grey.size,
        brightest=int(np.searchsorted(np.cumsum(counts), 0.998 * grey.size)),
        noise=float(((away > 0) & (away <= 30)).sum() / max(1, (away > 0).sum())),
        grid=_grid(away > 0),
        tonal=_correlation(light, grey),
        known=known,
        alignment=_rounded(asdict(found)),
        phash=perceptual_hash(small),
        thumb=cv2.resize(grey, (MAP_THUMB, MAP_THUMB), interpolation=cv2.INTER_AREA).tobytes().hex(),
    )


def blur(grey: np.ndarray) -> float:
    """Standard deviation of the blur of the sharpest edges, in pixels at a shorter side of SIDE. -1: no edges.

    A step edge blurred by s has, after a Gaussian of scale a, the slope c / sqrt(a^2 + s^2), so two scales give s (Zhuo
    and Sim 2011). Only the sharpest tenth of the 5% strongest slopes counts, since a soft background is no problem.
    """
    values = grey.astype(np.float32)
    scale = SIDE / min(grey.shape)
    if scale < 1:
        values = cv2.resize(values, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    fine, coarse = 1.0, 2.0
    steep_fine, steep_coarse = (_slope(cv2.GaussianBlur(values, (0, 0), sigma)) for sigma in (fine, coarse))
    strong = steep_coarse >= max(float(np.quantile(steep_coarse, 0.95)), 1.0)
    if strong.sum() < 50:
        return -1.0
    ratio = (steep_fine[strong] / steep_coarse[strong]) ** 2
    squared = (coarse**2 - ratio * fine**2) / np.maximum(ratio - 1, 1e-3)
    return float(np.sqrt(np.clip(np.quantile(squared, 0.1), 0, 100)))


def perceptual_hash(small: np.ndarray) -> str:
    """pHash (64 bits, 16 hexadecimal digits) of RGB uint8 (h, w, 3)."""
    return str(imagehash.phash(Image.fromarray(small)))


def _slope(values: np.ndarray) -> np.ndarray:
    return np.hypot(cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1)) / 8


def _thumb(small: np.ndarray) -> str:
    return cv2.resize(small, (THUMB, THUMB), interpolation=cv2.INTER_AREA).tobytes().hex()


def _correlation(light: np.ndarray, map: np.ndarray) -> float:
    """Pearson's r of two grey images at 64 x 64."""
    a, b = (cv2.resize(x, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float64).ravel() for x in (light, map))
    a, b = a - a.mean(), b - b.mean()
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / lengths, 4) if lengths else 0.0


def _grid(marked: np.ndarray) -> float:
    across, down = marked[:, 1:] != marked[:, :-1], marked[1:] != marked[:-1]
    if not across.any() or not down.any():
        return 0.0
    return float(min(across[:, 7::8].sum() / across.sum(), down[7::8].sum() / down.sum()))


def _bits(image: Image.Image, path: Path) -> int:
    """Bits per channel of the file. Pillow reads 16-bit colour as 8-bit."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, 8)  # type: ignore[attr-defined]
        return int(max(bits) if isinstance(bits, tuple) else bits)
    return 16 if image.mode.startswith("I") else 32 if image.mode == "F" else 8


def _lossy(image: Image.Image, path: Path) -> bool:
    if image.format == "WEBP":
        return not _holds_vp8l(path)
    return image.format in ("JPEG", "MPO")


def _holds_vp8l(path: Path) -> bool:
    """Whether a WebP file is lossless, by the names of its RIFF chunks."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 "):
                return head[:4] == b"VP8L"
            length = int.from_bytes(head[4:], "little")
            file.seek(10 if head[:4] == b"VP8X" and length == 10 else length + length % 2, 1)
    return False


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
