from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.conditions import registry
from engine.conditions.types import segmentation
from engine.conditions.types.ade20k import PALETTE
from engine.conditions.types.segmentation import coloured, segmentation_adherence, segmentation_batch, without_specks
from tests.conditions import tiny_models
from tests.conditions.types.test_types import photographs


def test_any_transformers_segmentation_model_makes_maps_in_batches(tmp_path: Path) -> None:
    values = registry.resolve_parameters("segmentation", {"model": str(tiny_models.segformer(tmp_path / "model"))})
    pictures = [photographs()[0][:100, :160], photographs()[1][:160, :100]]
    maps = segmentation_batch(pictures, **values)
    assert [map.shape for map in maps] == [image.shape for image in pictures]
    colours = {tuple(colour) for map in maps for colour in np.unique(map.reshape(-1, 3), axis=0).tolist()}
    assert colours <= set(PALETTE) and len(colours) > 1
    assert np.mean(registry.get("segmentation").extractor(pictures[1], **values) == maps[1]) > 0.99
    scorer = registry.get("segmentation").scorer
    assert scorer is not None and scorer(maps[0], pictures[0], **values) == pytest.approx(1)


def test_small_specks_are_merged_into_their_surroundings() -> None:
    labels = np.zeros((50, 50), np.int32)
    labels[:, 25:] = 3
    labels[10:12, 10:12], labels[40, 40], labels[20:30, 0:10] = 7, 9, 5
    cleaned = without_specks(labels, 1.0)
    assert cleaned[10, 10] == 0 and cleaned[40, 40] == 3 and (cleaned[20:30, 0:10] == 5).all()
    assert np.array_equal(without_specks(labels, 0.0), labels)


def test_the_palette_is_ade20ks_and_repeats() -> None:
    assert len(PALETTE) == 150 and PALETTE[2] == (6, 230, 230)  # sky
    assert (coloured(np.array([[2, 152]])) == PALETTE[2]).all()


def test_adherence_is_the_mean_iou_of_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.zeros((40, 40), np.int32)
    wanted[:, 20:] = 1
    seen = wanted.copy()
    seen[:, 20:30] = 0
    monkeypatch.setattr(segmentation, "labels_of", lambda images, model: [seen] * len(images))
    image = np.zeros((40, 40, 3), np.uint8)
    found = segmentation_adherence(coloured(wanted), image, model="", smallest=0.0)
    assert found == pytest.approx((20 / 30 + 10 / 20) / 2)
