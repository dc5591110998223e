"""Images of a shape that the bundled base has never seen, a plus sign, with captions in the base's own form.

It is called "zrp", a word that the base's tokenizer spells in letters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from engine.demo.shapes import Scene, paint, random_colours

WORD = "zrp"
SIDE = 128


def plus(centre: tuple[float, float], arm: float, side: int = SIDE) -> np.ndarray:
    """Mask (side, side) of a plus sign whose arms are ``arm`` pixels long, and two thirds as wide."""
    ys, xs = np.mgrid[:side, :side]
    x, y = np.abs(xs - centre[0]), np.abs(ys - centre[1])
    return (np.maximum(x, y) <= arm) & (np.minimum(x, y) <= arm / 3)


def caption(figure: str, ground: str, word: str = WORD) -> str:
    """As the base knows captions, with the new word in the shape's place."""
    return Scene(word, figure, ground, (0, 0), 0).caption


def write_set(folder: Path, count: int) -> Path:
    """Write ``count`` images of plus signs, with their captions, into a new folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(count):
        figure, ground = random_colours(rng)
        x, y = rng.uniform(0.35, 0.65, 2) * SIDE
        arm = rng.uniform(0.2, 0.32) * SIDE
        Image.fromarray(paint(plus((x, y), arm), figure, ground)).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(caption(figure, ground), encoding="utf-8")
    return folder
