from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.conditions import registry
from engine.conditions.types import pose as module
from engine.conditions.types import skeleton
from engine.conditions.types.pose import decoded, frame, pose_adherence, pose_batch
from tests.conditions import tiny_models
from tests.conditions.types.test_types import photographs

COCO = np.array([
    (50, 20), (53, 18), (47, 18), (57, 20), (43, 20), (65, 40), (35, 40), (75, 65), (25, 65), (80, 90), (20, 90),
    (60, 95), (40, 95), (62, 130), (38, 130), (63, 165), (37, 165),
], float)  # fmt: skip
"""A person standing upright, facing the viewer."""


def body(shift: float = 0.0) -> np.ndarray:
    return skeleton.from_coco(COCO + (shift, 0), np.ones(17), 0.3)


def test_transformers_detector_and_pose_model_work_on_batches(tmp_path: Path) -> None:
    given = {
        "model": str(tiny_models.vitpose(tmp_path / "pose")),
        "detector": str(tiny_models.detector(tmp_path / "d")),
    }
    values = registry.resolve_parameters("pose", given | {"sure": 0.0, "people": 2})
    images = [photographs()[0][:100, :160], photographs()[1][:160, :100]]
    boxes = module.persons(images, values["detector"], 2)
    assert [found.shape for found in boxes] == [(2, 4), (2, 4)]
    maps = pose_batch(images, **values)
    assert [map.shape for map in maps] == [picture.shape for picture in images] and maps[0].any()
    alone = registry.get("pose").extractor(images[1], **values)
    assert np.mean(alone != maps[1]) < 0.01
    nobody = registry.resolve_parameters("pose", given | {"sure": 1.0})
    assert not registry.get("pose").extractor(images[0], **nobody).any()


def test_points_are_heat_map_peaks_with_subpixel_precision() -> None:
    box = np.array([30.0, 20.0, 90.0, 180.0])
    left, top, width, height = frame(box)
    assert width / height == pytest.approx(0.75) and height == pytest.approx(200)
    truth = COCO + (10, 5)
    ys, xs = np.mgrid[:64, :48]
    across, down = (truth[:, 0] - left) / width * 47, (truth[:, 1] - top) / height * 63
    heat = np.stack(
        [np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 2.0**2)) for x, y in zip(across, down, strict=True)]
    )
    points, sure = decoded(heat.astype(np.float32), box)
    assert np.abs(points - truth).max() < 0.02 and (sure > 0.8).all()


def test_a_persons_crop_matches_the_box() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[60:100, 80:110] = 255
    crop = module.cropped(image, np.array([80.0, 60.0, 110.0, 100.0]))
    assert crop.shape == (256, 192, 3)
    lit = crop[..., 0] > 127
    assert lit[128, 96] and 0.55 < lit.mean() < 0.72  # 1 / 1.25 squared, minus the padding to 3 : 4


def test_joints_have_openpose_colours_and_uncertain_ones_no_limbs() -> None:
    map = skeleton.draw([body()], (200, 100))
    assert tuple(map[40, 35]) == skeleton.JOINTS[2] and tuple(map[40, 65]) == skeleton.JOINTS[5]
    assert tuple(map[40, 50]) == skeleton.JOINTS[1]  # the neck, halfway
    sure = np.ones(17)
    sure[10] = 0.1  # right wrist
    without = skeleton.draw([skeleton.from_coco(COCO, sure, 0.3)], (200, 100))
    assert map[90, 20].any() and not without[90, 20].any() and without[65, 25].any()


def test_adherence_depends_on_the_limbs_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"now": skeleton.draw([body()], (200, 200))}
    monkeypatch.setattr(module, "pose", lambda image, **values: seen["now"])
    values = {"model": "", "detector": "", "sure": 0.3, "people": 9}
    wanted, picture = seen["now"], np.zeros((200, 200, 3), np.uint8)
    scores = []
    for shift in (0.0, 3.0, 60.0):
        seen["now"] = skeleton.draw([body(shift)], (200, 200))
        scores.append(pose_adherence(wanted, picture, **values))
    seen["now"] = wanted[:, ::-1]  # mirrored: left and right differ in colour
    scores.append(pose_adherence(wanted, picture, **values))
    assert scores[0] == pytest.approx(1) and scores[1] > 0.8 and scores[2] < 0.1 and scores[3] < 0.6
    blank = np.zeros_like(wanted)
    seen["now"] = blank
    assert pose_adherence(wanted, picture, **values) == 0 and pose_adherence(blank, picture, **values) == 1
