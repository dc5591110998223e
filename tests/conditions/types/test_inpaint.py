from __future__ import annotations

import numpy as np
import pytest

from engine.conditions.types.inpaint import hole_of
from tests.conditions.types.test_more_types import made
from tests.conditions.types.test_types import another, compressed, photographs, same, score, warped


def test_adherence_orders_real_photographs() -> None:
    identical, near, far, none = (score("inpaint", change) for change in (same, compressed, warped, another))
    print(f"same {identical:.3f} jpeg90 {near:.3f} warp {far:.3f} other {none:.3f}")
    assert identical == pytest.approx(1) and near > 0.95 and near > far > none + 0.1 and none < 0.25


@pytest.mark.parametrize("shape", ["strokes", "boxes", "border"])
@pytest.mark.parametrize("share", [0.1, 0.35, 0.7])
def test_about_the_requested_fraction_is_masked_and_the_rest_kept(shape: str, share: float) -> None:
    for photo in photographs()[:3]:
        map = made("inpaint", photo, shape=shape, share=share)
        hole = hole_of(map)
        assert share - 0.05 <= hole.mean() <= share + 0.25
        assert np.abs(map[~hole].astype(int) - photo[~hole]).max() <= 1  # black outside the mask becomes (1, 1, 1)


def test_every_image_has_its_own_repeatable_mask() -> None:
    first, second = photographs()[:2]
    assert np.array_equal(made("inpaint", first), made("inpaint", first.copy()))
    assert not np.array_equal(hole_of(made("inpaint", first)), hole_of(made("inpaint", second)))
    assert not np.array_equal(hole_of(made("inpaint", first)), hole_of(made("inpaint", first, seed=5)))


def test_the_masked_area_is_not_scored() -> None:
    from engine.conditions.types.inpaint import inpaint_adherence

    photo = photographs()[1]
    values = {"shape": "boxes", "share": 0.4, "seed": 0}
    map = made("inpaint", photo, **values)
    other = np.where(hole_of(map)[..., None], photographs()[2], photo)
    assert inpaint_adherence(map, other, **values) > 0.999 > inpaint_adherence(map, photographs()[2], **values)
