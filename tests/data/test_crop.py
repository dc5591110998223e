from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engine.data.crop import apply_crop, shared_crop


def test_a_centre_crop_takes_the_largest_box_of_the_targets_aspect() -> None:
    assert shared_crop(300, 200, 128).box == (50, 0, 250, 200)
    assert shared_crop(300, 200, (64, 128)).box == (100, 0, 200, 200)
    assert shared_crop(128, 128, 128).box == (0, 0, 128, 128)


def test_a_random_crop_comes_from_its_seed_and_stays_inside() -> None:
    boxes = [shared_crop(300, 200, 128, "random", seed).box for seed in range(50)]
    assert boxes[7] == shared_crop(300, 200, 128, "random", 7).box
    assert len(set(boxes)) > 20 and all(b[0] >= 0 and b[2] <= 300 and b[2] - b[0] == 200 for b in boxes)


def test_a_picture_of_the_right_size_is_unchanged() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8))
    assert np.array_equal(apply_crop(image, shared_crop(128, 128, 128)), image)


def test_a_map_of_another_resolution_is_cropped_at_the_same_place() -> None:
    picture = np.zeros((400, 600, 3), np.uint8)
    picture[:, 200:300] = 255
    crop = shared_crop(600, 400, 100)
    whole = np.asarray(apply_crop(Image.fromarray(picture), crop, nearest=True))
    half = np.asarray(apply_crop(Image.fromarray(picture[::2, ::2]), crop, nearest=True))
    assert np.array_equal(whole, half) and whole[:, 25:50].all() and not whole[:, 51:].any()


def test_nearest_invents_no_new_labels() -> None:
    labels = Image.fromarray(np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), (90, 90)))
    assert set(np.unique(apply_crop(labels, shared_crop(90, 90, 64), nearest=True))) <= {0, 128, 255}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="crop mode"):
        shared_crop(10, 10, 8, "middle")
    with pytest.raises(ValueError, match="seed"):
        shared_crop(10, 10, 8, "random")
