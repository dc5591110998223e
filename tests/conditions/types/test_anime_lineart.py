from __future__ import annotations

import numpy as np
import pytest

from tests.conditions.types.test_more_types import flat, made
from tests.conditions.types.test_types import another, compressed, photographs, same, score, warped


def test_adherence_orders_real_photographs() -> None:
    identical, near, far, none = (score("anime_lineart", change) for change in (same, compressed, warped, another))
    print(f"same {identical:.3f} jpeg90 {near:.3f} warp {far:.3f} other {none:.3f}")
    assert identical == pytest.approx(1, abs=0.01) and near > 0.85 and near > far > none + 0.1 and none < 0.35


def test_dark_strokes_become_ink_and_paper_stays_empty() -> None:
    image = flat(220, (100, 100))
    image[:, 48:52] = 30
    drawn = made("anime_lineart", image)[..., 0]
    assert drawn[50, 50] > 240 and not drawn[:, :30].any() and not drawn[:, 70:].any()
    for grey in (0, 90, 255):
        assert len(np.unique(made("anime_lineart", flat(grey)))) == 1


def test_more_ink_fills_more() -> None:
    for photo in photographs()[:3]:
        little, much = (made("anime_lineart", photo, ink=ink).mean() for ink in (0.6, 0.85))
        assert little < much
        assert 0.01 < (made("anime_lineart", photo) > 0).mean() < 0.5
