from __future__ import annotations

import cv2
import numpy as np
import pytest

from engine.conditions.types.scribble import scribble
from tests.conditions.types.test_more_types import made
from tests.conditions.types.test_types import another, compressed, photographs, same, score, warped


def test_adherence_orders_real_photographs() -> None:
    identical, near, far, none = (score("scribble", change) for change in (same, compressed, warped, another))
    print(f"same {identical:.3f} jpeg90 {near:.3f} warp {far:.3f} other {none:.3f}")
    assert identical == pytest.approx(1) and near > 0.85 and near > far > none + 0.1 and none < 0.15


def test_strokes_are_few_thick_and_white() -> None:
    for photo in photographs()[:3]:
        map = made("scribble", photo)
        assert set(np.unique(map)) == {0, 255} and 0.01 < (map > 0).mean() < 0.3
        thin = made("scribble", photo, width=1)
        assert (thin > 0).mean() < (map > 0).mean()
        assert (made("scribble", photo, detail=10.0) > 0).mean() < (map > 0).mean()
        assert (made("scribble", photo, shortest=200) > 0).sum() < (map > 0).sum()


def test_a_disc_becomes_its_outline_and_jitter_is_repeatable() -> None:
    image = np.full((200, 200, 3), 40, np.uint8)
    cv2.circle(image, (100, 100), 60, (220, 220, 220), -1)
    values = {"detail": 4.0, "faintest": 6.0, "width": 3, "shortest": 30}
    steady = scribble(image, **values, wobble=0.0)[..., 0] > 0
    ys, xs = np.nonzero(steady)
    assert np.abs(np.hypot(xs - 100, ys - 100) - 60).max() < 8 and len(ys) > 300
    strayed = scribble(image, **values, wobble=6.0)
    assert np.array_equal(strayed, scribble(image, **values, wobble=6.0))
    assert not np.array_equal(strayed[..., 0] > 0, steady)
