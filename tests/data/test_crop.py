"""Image and map get the same crop, in every mode."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engine.data.crop import MODES, apply_crop, lost_fraction, shared_crop


def test_a_centre_crop_takes_the_largest_box_of_the_targets_aspect() -> None:
    assert shared_crop(300, 200, 128).box == (50, 0, 250, 200)
    assert shared_crop(300, 200, (64, 128)).box == (100, 0, 200, 200)
    assert shared_crop(128, 128, 128).box == (0, 0, 128, 128)


def test_a_random_crop_depends_on_its_seed_and_stays_inside() -> None:
    boxes = [shared_crop(300, 200, 128, "random", seed).box for seed in range(50)]
    assert boxes[7] == shared_crop(300, 200, 128, "random", 7).box
    assert len(set(boxes)) > 20 and all(b[0] >= 0 and b[2] <= 300 and b[2] - b[0] == 200 for b in boxes)


def test_an_image_of_the_right_size_is_unchanged() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8))
    assert np.array_equal(apply_crop(image, shared_crop(128, 128, 128)), image)


def test_a_map_of_another_resolution_is_cropped_at_the_same_place() -> None:
    picture = np.zeros((400, 600, 3), np.uint8)
    picture[:, 200:300] = 255
    crop = shared_crop(600, 400, 100)
    whole = np.asarray(apply_crop(Image.fromarray(picture), crop, nearest=True))
    half = np.asarray(apply_crop(Image.fromarray(picture[::2, ::2]), crop, nearest=True))
    assert np.array_equal(whole, half) and whole[:, 25:50].all() and not whole[:, 51:].any()


def test_nearest_interpolation_adds_no_labels() -> None:
    labels = Image.fromarray(np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), (90, 90)))
    assert set(np.unique(apply_crop(labels, shared_crop(90, 90, 64), nearest=True))) <= {0, 128, 255}


def test_impossible_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="crop mode"):
        shared_crop(10, 10, 8, "middle")
    with pytest.raises(ValueError, match="seed"):
        shared_crop(10, 10, 8, "random")
    with pytest.raises(ValueError, match="needs the image"):
        shared_crop(10, 20, 8, "smart")


@pytest.mark.parametrize("size", [64, (96, 64), (64, 128)])
@pytest.mark.parametrize("mode", MODES)
def test_a_marker_lands_at_the_same_place_in_image_and_map(
    mode: str, size: int | tuple[int, int], photos: dict[str, np.ndarray]
) -> None:
    picture = photos["chelsea"].copy()
    map = np.zeros((picture.shape[0] * 2, picture.shape[1] * 2, 3), np.uint8)  # a map may be larger than its image
    whole = shared_crop(picture.shape[1], picture.shape[0], size, mode, seed=3, image=Image.fromarray(picture))
    left, top, right, bottom = whole.box
    x, y, side = (left + right) // 2 + 20, (top + bottom) // 2 - 30, 24
    picture[y : y + side, x : x + side] = (255, 0, 255)
    map[2 * y : 2 * (y + side), 2 * x : 2 * (x + side)] = (255, 0, 255)
    found = []
    for image, nearest in ((picture, False), (map, True)):
        seen = np.asarray(apply_crop(Image.fromarray(image), whole, nearest)).astype(int)
        ys, xs = np.nonzero((seen[..., 0] > 200) & (seen[..., 1] < 60) & (seen[..., 2] > 200))
        found.append((xs.mean(), ys.mean()))
    assert found[0] == pytest.approx(found[1], abs=0.6)


def test_a_categorical_map_keeps_its_colours_under_every_crop() -> None:
    palette = np.array([[0, 0, 0], [230, 25, 75], [60, 180, 75], [0, 130, 200]], np.uint8)
    map = Image.fromarray(palette[np.random.default_rng(0).integers(0, 4, (75, 110))].repeat(3, 0).repeat(3, 1))
    for mode in MODES:
        for size in (64, (96, 64), (64, 128), 256):
            crop = shared_crop(map.width, map.height, size, mode, seed=1, image=map)
            seen = np.asarray(apply_crop(map, crop, nearest=True)).reshape(-1, 3)
            assert {tuple(colour) for colour in seen} <= {tuple(colour) for colour in palette}


@pytest.mark.answers("Heads are cut off")
def test_a_smart_crop_moves_to_the_detail(photos: dict[str, np.ndarray]) -> None:
    for side in ("left", "right"):
        canvas = np.full((300, 900, 3), 120, np.uint8)
        at = 40 if side == "left" else 580
        canvas[10:290, at : at + 280] = photos["astronaut"][:280, 100:380]
        crop = shared_crop(900, 300, 128, "smart", image=Image.fromarray(canvas))
        assert crop.box[0] <= at and crop.box[2] >= at + 280, f"{side}: the face is whole"
    plain = Image.new("RGB", (900, 300), (9, 9, 9))
    assert shared_crop(900, 300, 128, "smart", image=plain).box == shared_crop(900, 300, 128).box


def test_the_cropped_fraction_is_reported() -> None:
    assert lost_fraction(shared_crop(200, 100, 64)) == 0.5
    assert lost_fraction(shared_crop(100, 100, 64)) == 0
