from __future__ import annotations

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from engine.demo.circles import circle_scene
from engine.demo.score import NOTHING, nearest_name, read_image, read_scene, score_disc, to_lab
from engine.demo.shapes import BLOB, PALETTE, SHAPES, Scene, draw, random_scene, shape_mask


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = random_scene(rng)
        if scene.shape != BLOB:
            found.append(scene)
    return found


def rough(image: np.ndarray, seed: int) -> np.ndarray:
    """Imitates a small model: soft edges, noise of sigma 8, and JPEG artefacts."""
    rng = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(image, (0, 0), 1.2).astype(np.float32) + rng.normal(0, 8, image.shape)
    data = cv2.imencode(".jpg", np.clip(soft, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


FEW_OR_MANY = [100, pytest.param(400, marks=pytest.mark.long)]


@pytest.mark.parametrize("count", FEW_OR_MANY)
@pytest.mark.parametrize("size", [128, pytest.param(96, marks=pytest.mark.long)])
def test_clean_images_are_scored_without_error(size: int, count: int) -> None:
    drawn = scenes(count)
    read = [read_scene(draw(scene, size)) for scene in drawn]
    colours = np.mean([r[1:] == (s.foreground, s.background) for r, s in zip(read, drawn, strict=True)])
    shapes = np.mean([r[0] == s.shape for r, s in zip(read, drawn, strict=True)])
    print(f"clean {size}: colours {colours:.4f} shapes {shapes:.4f}")
    assert colours >= 0.99 and shapes >= 0.97


@pytest.mark.parametrize("count", FEW_OR_MANY)
def test_rough_images_are_scored_almost_without_error(count: int) -> None:
    drawn = scenes(count, seed=1)
    began = time.perf_counter()
    read = [read_scene(rough(draw(scene, 128), n)) for n, scene in enumerate(drawn)]
    spent = (time.perf_counter() - began) / len(drawn)
    colours = np.mean([r[1:] == (s.foreground, s.background) for r, s in zip(read, drawn, strict=True)])
    shapes = np.mean([r[0] == s.shape for r, s in zip(read, drawn, strict=True)])
    print(f"rough: colours {colours:.4f} shapes {shapes:.4f}, {1000 * spent:.1f} ms an image")
    assert colours >= 0.99 and shapes >= 0.97


def test_a_disc_in_place_scores_one_also_when_rough() -> None:
    asked = [circle_scene(np.random.default_rng([5, n])) for n in range(100)]
    clean = [score_disc(draw(s, 128), s) for s in asked]
    assert min(s.iou for s in clean) > 0.97 and all(s.colours_right for s in clean)
    worn = [score_disc(rough(draw(s, 128), n), s) for n, s in enumerate(asked)]
    print(f"rough discs: IoU mean {np.mean([s.iou for s in worn]):.4f} least {min(s.iou for s in worn):.4f}")
    assert np.mean([s.iou for s in worn]) > 0.95 and np.mean([s.colours_right for s in worn]) >= 0.99


def test_a_disc_moved_by_its_radius_scores_low() -> None:
    asked = Scene("circle", "teal", "brown", (0.35, 0.5), 0.2)
    score = score_disc(draw(replace(asked, centre=(0.55, 0.5)), 128), asked)
    assert score.iou == pytest.approx(0.243, abs=0.02) and score.colours_right  # two unit discs a radius apart


def test_discs_placed_without_control_overlap_by_about_a_quarter() -> None:
    asked = [circle_scene(np.random.default_rng([6, n])) for n in range(300)]
    placed = [circle_scene(np.random.default_rng([7, n])) for n in range(300)]
    blind = [replace(p, foreground=a.foreground, background=a.background) for a, p in zip(asked, placed, strict=True)]
    mean = np.mean([score_disc(draw(b, 128), a).iou for a, b in zip(asked, blind, strict=True)])
    print(f"independent discs: IoU {mean:.3f}")
    assert 0.18 < mean < 0.30


def test_swapped_and_wrong_colours_are_recognized() -> None:
    asked = Scene("circle", "teal", "brown", (0.5, 0.5), 0.3)
    assert not score_disc(draw(replace(asked, foreground="lime"), 128), asked).colours_right
    swapped = score_disc(draw(replace(asked, foreground="brown", background="teal"), 128), asked)
    assert swapped.iou < 0.05  # the foreground's colour is around the disc


def test_blobs_are_scored_by_their_own_mask() -> None:
    asked = Scene(BLOB, "white", "navy", (0.5, 0.5), 0.5, seed=11)
    assert score_disc(draw(asked, 128), asked).iou > 0.97
    assert score_disc(draw(replace(asked, seed=12), 128), asked).iou < 0.7


@pytest.mark.parametrize("value", [0, 77, 255])
def test_an_image_of_one_colour_scores_nothing(value: int) -> None:
    flat = np.full((128, 128, 3), value, np.uint8)
    noisy = np.clip(flat + np.random.default_rng(0).normal(0, 8, flat.shape), 0, 255).astype(np.uint8)
    asked = Scene("circle", "teal", "brown", (0.5, 0.5), 0.3)
    for image in (flat, noisy):
        score = score_disc(image, asked)
        assert (score.iou, score.colours_right) == (0.0, False)
        assert read_scene(image) == (NOTHING, NOTHING, NOTHING) and read_image(image) is None


def test_noise_and_gradients_score_nothing() -> None:
    rng = np.random.default_rng(0)
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 3, 2).repeat(64, 0)
    asked = Scene("circle", "teal", "brown", (0.5, 0.5), 0.3)
    for image in (rng.integers(0, 256, (64, 64, 3), np.uint8), ramp):
        score, (shape, front, ground) = score_disc(image, asked), read_scene(image)
        assert 0 <= score.iou < 0.3 and not score.colours_right
        assert shape in SHAPES and {front, ground} <= PALETTE.keys()


def test_scoring_is_repeatable() -> None:
    image = rough(draw(scenes(1)[0], 128), 0)
    first, second = read_image(image), read_image(image)
    assert first is not None and second is not None
    assert all(np.array_equal(a.mask, b.mask) and a.name == b.name for a, b in zip(first, second, strict=True))


def test_a_large_disc_over_a_corner_is_still_the_foreground() -> None:
    scene = Scene("circle", "khaki", "navy", (0.19, 0.19), 0.5)
    assert shape_mask("circle", scene.centre, scene.radius, 128).mean() > 0.35
    assert read_scene(draw(scene, 128)) == ("circle", "khaki", "navy")


def test_every_palette_colour_is_its_own_nearest() -> None:
    assert all(nearest_name(to_lab(np.array(rgb, np.uint8))) == name for name, rgb in PALETTE.items())
