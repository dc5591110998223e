"""Light blobs on dark backgrounds and the reverse: a generated set whose condition is an area, not an outline."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.conditions import registry
from engine.demo.generated import write_set
from engine.demo.shapes import BLOB, PALETTE, Scene
from engine.jobs.control import CancelToken, OnProgress

CONDITION = "light_dark"
PARAMETERS = registry.resolve_parameters(CONDITION, {"levels": 2, "cuts": "fixed"})


def luminance(colour: str) -> float:
    """Rec. 601 luma of a palette colour, 0 to 255."""
    return float(np.dot(PALETTE[colour], (0.299, 0.587, 0.114)))


DARK = tuple(name for name in PALETTE if luminance(name) < 90)
LIGHT = tuple(name for name in PALETTE if luminance(name) > 160)


def blob_scene(rng: np.random.Generator) -> Scene:
    """One light and one dark colour, either of them in front. Centre and radius have no meaning here."""
    colours = [str(rng.choice(LIGHT)), str(rng.choice(DARK))]
    if rng.random() < 0.5:
        colours.reverse()
    return Scene(BLOB, colours[0], colours[1], (0.5, 0.5), 0.5, int(rng.integers(2**31)))


def make_blobs(
    folder: Path | str,
    count: int,
    size: int = 128,
    seed: int = 0,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
) -> Path:
    """Writes the set (see ``write_set``) with maps by the light-and-dark extractor. Returns the folder."""
    extract = registry.get(CONDITION).extractor
    return write_set(
        folder,
        "blobs",
        blob_scene,
        lambda scene, image: extract(image, **PARAMETERS),
        (CONDITION, PARAMETERS),
        count,
        size,
        seed,
        progress,
        token,
    )
