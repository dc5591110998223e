"""Coloured circles like fill50k, the set of the ControlNet paper's tutorial (Zhang et al. 2023), in any size.

Measured on fill50k: 512 x 512; the condition is a white outline of 5 px on black, without antialiasing, clipped at the
border; the radius is uniform in 64..256 px, the centre in 96..416 px; a disc of one colour on a background of another.
Smaller images have the same proportions, except the outline: at 128 px it is rounded up from 1.25 to 2 px, since the
strides of the hint encoder lose about half of a line of one pixel each, which would delay the demo's convergence.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from engine.demo.generated import write_set
from engine.demo.shapes import Scene, random_colours
from engine.jobs.control import CancelToken, OnProgress


def circle_scene(rng: np.random.Generator) -> Scene:
    """A disc in two palette colours."""
    foreground, background = random_colours(rng)
    radius = float(rng.uniform(64, 256)) / 512
    x, y = (float(place) / 512 for place in rng.uniform(96, 416, 2))
    return Scene("circle", foreground, background, (x, y), radius)


def outline(scene: Scene, size: int) -> np.ndarray:
    """The condition map: white outline on black, RGB uint8 (size, size, 3)."""
    width = math.ceil(5 * size / 512)
    ys, xs = (np.mgrid[:size, :size] + 0.5) / size
    distance = np.hypot(xs - scene.centre[0], ys - scene.centre[1])
    ring = np.abs(distance - scene.radius) * size <= width / 2
    return np.repeat(np.where(ring, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


def make_circles(
    folder: Path | str,
    count: int,
    size: int = 128,
    seed: int = 0,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
) -> Path:
    """Writes the set (see ``write_set``) with the condition type "own". Returns the folder."""
    return write_set(
        folder,
        "circles",
        circle_scene,
        lambda scene, image: outline(scene, size),
        ("own", {}),
        count,
        size,
        seed,
        progress,
        token,
    )
