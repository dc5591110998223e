"""A realistic messy folder: photographs of scikit-image and scikit-learn with captions, and faults among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

SIDE = 160
NAME = "Größe – my images 写真"
WEB_PAGE = b"<!DOCTYPE html><html><title>404 Not found</title></html>"


@dataclass(frozen=True)
class Messy:
    """``readable``: images that an import can use, ``clean`` of them without a planted fault of the image."""

    folder: Path
    clean: int
    readable: int
    captions: int


def crops() -> Iterator[tuple[str, np.ndarray]]:
    """A word for what it shows and SIDE x SIDE x 3 uint8, no two of the same place."""
    whole = {
        "an astronaut in orange": data.astronaut(),
        "a cup of coffee on wood": data.coffee(),
        "a ginger cat": data.chelsea(),
        "a rocket at its tower": data.rocket(),
        "motorcycles in a garage": data.stereo_motorcycle()[0],
        "a temple roof in China": load_sample_images().images[0],
        "a red flower": load_sample_images().images[1],
    }
    for words, pixels in whole.items():
        for top in range(0, pixels.shape[0] - SIDE + 1, SIDE):
            for left in range(0, pixels.shape[1] - SIDE + 1, SIDE):
                yield words, np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE])


def make(parent: Path) -> Messy:
    """Write the folder. It is the same at every call."""
    folder = parent / NAME
    (folder / "sous-dossier d'été").mkdir(parents=True)
    photos = list(crops())
    clean, captions = 0, 0

    def write(name: str, pixels: np.ndarray, caption: str | None, **how: object) -> Path:
        nonlocal captions
        path = folder / name
        Image.fromarray(pixels).save(path, **how)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, "utf-8")
            captions += bool(caption)
        return path

    faulty = photos[-5:]
    for number, (words, pixels) in enumerate(photos[:-5]):
        place = "sous-dossier d'été/" if number % 4 == 0 else ""
        write(f"{place}été {number:02} – {words}.png", pixels, None if number == 3 else f"{words}, part {number}")
        clean += 1

    cut = write("cut off.jpg", faulty[0][1], None, quality=90)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (folder / "not found.jpg").write_bytes(WEB_PAGE)
    (folder / "empty.png").write_bytes(b"")
    write("placeholder.png", np.full((SIDE, SIDE, 3), 127, np.uint8), "nothing to see")
    (folder / "copy of the first.png").write_bytes(next(folder.glob("été 01*.png")).read_bytes())
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    write("turned.jpg", faulty[0][1], "a photograph from a telephone", exif=exif)
    write("marked up.jpg", faulty[2][1], "a <b>nice</b> image &amp; more", quality=92)
    write("long.png", np.concatenate([photo[:40] for _, photo in faulty[3:] * 2], 1), "a long strip")
    return Messy(folder, clean, clean + 5, captions)
