from __future__ import annotations

import numpy as np
import pytest

from engine.conditions.metrics import correlation
from tests.conditions.types.test_more_types import flat, made
from tests.conditions.types.test_types import another, compressed, photographs, same, score, warped


def test_adherence_orders_real_photographs_by_their_colours() -> None:
    identical, near, far, none = (score("shuffle", change) for change in (same, compressed, warped, another))
    print(f"same {identical:.3f} jpeg90 {near:.3f} warp {far:.3f} other {none:.3f}")
    assert identical > 0.7 and near > 0.7 and none < 0.35 and identical > none + 0.3
    assert score("shuffle", lambda index: same(index)[::-1, ::-1]) == pytest.approx(identical, abs=0.02)


def test_positions_are_shuffled_and_colours_kept() -> None:
    for photo in photographs()[:4]:
        map = made("shuffle", photo)
        assert abs(correlation(photo, map)) < 0.5
        assert np.abs(map.mean((0, 1)) - photo.mean((0, 1))).max() < 40
        assert map.min() >= photo.min() and map.max() <= photo.max()


def test_the_shuffle_depends_on_seed_and_image() -> None:
    first = photographs()[0]
    assert np.array_equal(made("shuffle", first), made("shuffle", first.copy()))
    assert not np.array_equal(made("shuffle", first), made("shuffle", first, seed=1))
    assert np.array_equal(made("shuffle", flat(77)), flat(77))
