"""Synthetic degradations of real photographs: every metric ranks them correctly, with margins.

The same at full size, with its figures: python -m benchmarks.adherence_calibration (docs/adherence.md).
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.adherence_calibration import ANOTHER, TYPES, calibrate, normalised
from benchmarks.degradations import photographs

ROOM = {"canny": 0.05, "lines": 0.1, "lineart": 0.1, "scribble": 0.05}
"""Loss of score by a shift of 2.5 px, for types that depend on positions; the others lose little."""


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return photographs(side=256, count=8)


@pytest.mark.parametrize("name", [*TYPES, "likeness"])
def test_worse_images_score_less_and_another_image_far_less(images: list[np.ndarray], name: str) -> None:
    found = calibrate(name, images)
    scores = normalised(found)
    assert found["itself"] == pytest.approx(np.ones(8), abs=0.01)
    assert scores["jpeg90"] > 0.8
    assert scores["jpeg90"] >= scores["retexture"] - 0.01 and scores["retexture"] >= scores["+ warp"] - 0.01
    assert scores["retexture"] - scores["+ warp"] >= ROOM.get(name, -0.01)
    assert scores["+ warp"] > 0.15, "a scene that is there is told from one that is not"
    told_apart = (found["+ warp"][:, None] > found[ANOTHER][None]).mean()
    assert told_apart > 0.7, "of any two images, the one of the right scene"
