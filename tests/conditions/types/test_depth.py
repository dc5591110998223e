from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage import data

from engine.conditions import registry
from engine.conditions.types import depth
from engine.conditions.types.depth import depth_adherence, depth_batch, grey_map
from tests.conditions import tiny_models
from tests.conditions.types.test_types import photographs


def test_any_transformers_depth_model_makes_maps_in_batches(tmp_path: Path) -> None:
    values = registry.resolve_parameters("depth", {"model": str(tiny_models.depth_anything(tmp_path / "model"))})
    pictures = [photographs()[0][:100, :160], photographs()[1][:160, :100], photographs()[2][:100, :160]]
    maps = depth_batch(pictures, **values)
    assert [map.shape for map in maps] == [image.shape for image in pictures]
    for image, map in zip(pictures, maps, strict=True):
        alone = registry.get("depth").extractor(image, **values)
        assert np.abs(alone.astype(int) - map).mean() < 1 and map.max() == 255 and map.min() == 0
    scorer = registry.get("depth").scorer
    assert scorer is not None and scorer(maps[0], pictures[0], **values) == pytest.approx(1, abs=1e-3)


def test_metric_depth_becomes_a_map_robust_to_outliers(monkeypatch: pytest.MonkeyPatch) -> None:
    left, _, near = data.stereo_motorcycle()  # disparity is large for near points, like a depth map
    near = np.where(np.isfinite(near), near, 0).astype(np.float32)
    map = grey_map(near, 1.0)
    assert map.min() == 0 and map.max() == 255
    broken = near.copy()
    broken[:2] = 1e6
    assert np.abs(grey_map(broken, 1.0)[10:].astype(int) - map[10:]).max() < 10
    # The metric ignores the model's scale and offset, but not another layout.
    seen = {"now": near}
    monkeypatch.setattr(depth, "nearness", lambda images, model: [seen["now"]] * len(images))
    values = {"model": "", "cut_off": 1.0}
    assert depth_adherence(map, left, **values) == pytest.approx(1)
    seen["now"] = near * 0.3 + 20
    assert depth_adherence(map, left, **values) > 0.999
    seen["now"] = near[::-1]
    assert depth_adherence(map, left, **values) < 0.5


def test_models_that_predict_metres_are_inverted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_models.depth_anything(tmp_path / "model"))
    from engine.conditions import weights

    image = photographs()[0][:70, :70]
    net, _ = weights.loaded(depth.MODEL, folder)
    near = depth.nearness([image], folder)[0]
    monkeypatch.setattr(depth, "METRES", (net.config.model_type,))
    far = depth.nearness([image], folder)[0]
    assert np.corrcoef(near.ravel(), far.ravel())[0, 1] < 0
