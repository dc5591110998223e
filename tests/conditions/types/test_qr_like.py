from __future__ import annotations

import numpy as np
import pytest

from tests.conditions.types.test_more_types import flat, made
from tests.conditions.types.test_types import another, compressed, photographs, same, score, warped


@pytest.mark.parametrize("cut", ["local", "whole"])
def test_adherence_orders_real_photographs(cut: str) -> None:
    identical, near, far, none = (score("qr_like", change, cut=cut) for change in (same, compressed, warped, another))
    print(f"{cut}: same {identical:.3f} jpeg90 {near:.3f} warp {far:.3f} other {none:.3f}")
    assert identical == pytest.approx(1) and near > 0.9 and near > far > none + 0.1 and none < 0.25


def test_squares_are_whole_and_black_or_white() -> None:
    map = made("qr_like", photographs()[0])
    squares = map.reshape(32, 16, 32, 16, 3)
    assert (squares == squares[:, :1, :, :1]).all() and set(np.unique(map)) == {0, 255}
    assert 0.45 < (made("qr_like", photographs()[0], cut="whole") > 0).mean() < 0.55
    assert len(np.unique(made("qr_like", flat(90)))) == 1


def test_squares_near_the_threshold_can_stay_grey_and_are_not_scored() -> None:
    from engine.conditions.types.qr_like import qr_like_adherence

    photo = photographs()[2]
    map = made("qr_like", photo, unsure=10.0)
    assert set(np.unique(map)) == {0, 128, 255}
    brighter = np.clip(photo.astype(int) + 4, 0, 255).astype(np.uint8)
    assert qr_like_adherence(map, brighter, cells=32, cut="local", unsure=10.0) > 0.99
