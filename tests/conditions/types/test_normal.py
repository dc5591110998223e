from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.conditions import registry
from engine.conditions.types import normal as module
from engine.conditions.types.normal import normal_adherence, normals_of
from tests.conditions import tiny_models
from tests.conditions.types.test_types import photographs

VALUES = {"model": "", "relief": 2.0, "blur": 0.0, "background": 0.0}


def ball(size: int = 101) -> np.ndarray:
    """Depth map of a ball seen from the front (near is high)."""
    ys, xs = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.sqrt(np.maximum(0, 1 - xs**2 - ys**2)).astype(np.float32)


def test_the_normals_of_a_ball_point_outwards() -> None:
    vectors = normals_of(ball(), relief=0.5, blur=0.0, background=0.0)
    assert np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    assert vectors[50, 25, 0] > 0.3 and vectors[50, 75, 0] < -0.3 and abs(vectors[50, 25, 1]) < 0.05
    assert vectors[25, 50, 1] > 0.3 and vectors[75, 50, 1] < -0.3 and vectors[50, 50, 2] > 0.99
    # relief 0.5: a depth of 1 is half the side, which is the ball's true shape; its normal is its radius
    assert vectors[50, 20, 0] == pytest.approx(0.6, abs=0.02) and vectors[50, 20, 2] == pytest.approx(0.8, abs=0.02)


def test_distant_areas_are_flat_background() -> None:
    vectors = normals_of(ball(), relief=4.0, blur=0.0, background=0.9)
    assert (vectors[50, 10] == (0, 0, 1)).all() and np.mean(vectors[..., 2] == 1) > 0.7


def test_adherence_is_one_for_the_same_relief_and_low_for_a_mirrored_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"now": ball()}
    monkeypatch.setattr(module, "nearness", lambda images, model: [seen["now"]] * len(images))
    image = np.zeros((101, 101, 3), np.uint8)
    map = module.normal(image, **VALUES)
    assert normal_adherence(map, image, **VALUES) == pytest.approx(1, abs=0.02)
    seen["now"] = ball().max() - ball()
    assert normal_adherence(map, image, **VALUES) < 0.3


def test_maps_use_the_depth_types_model(tmp_path: Path) -> None:
    values = registry.resolve_parameters("normal", {"model": str(tiny_models.depth_anything(tmp_path / "model"))})
    (map,) = module.normal_batch([photographs()[0][:100, :160]], **values)
    assert map.shape == (100, 160, 3) and map.dtype == np.uint8 and map[..., 2].min() >= 127
