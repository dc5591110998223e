"""Line art, straight lines, grey, soft brightness, tile and colour grid, each on real photographs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from engine.conditions import registry
from engine.conditions.metrics import concordance, correlation, ms_ssim, ssim
from tests.conditions.types.test_types import another, compressed, jpeg, photographs, same, score, warped


def made(name: str, image: np.ndarray, **parameters) -> np.ndarray:  # type: ignore[no-untyped-def]
    return registry.get(name).extractor(image, **registry.resolve_parameters(name, parameters))


def flat(grey: int, size: tuple[int, int] = (96, 64)) -> np.ndarray:
    return np.full((*size, 3), grey, np.uint8)


@pytest.mark.parametrize(
    ("name", "parameters", "least_jpeg", "most_other"),
    [
        ("lineart", {}, 0.98, 0.35),
        ("lineart", {"width": 3.0, "threshold": 0.0}, 0.98, 0.35),
        ("lines", {}, 0.8, 0.1),
        ("lines", {"shortest": 40.0, "width": 1}, 0.8, 0.1),
        ("grey", {}, 0.95, 0.35),
        ("grey", {"blur": 2.0}, 0.95, 0.5),
        ("luminance", {}, 0.99, 0.1),
        ("tile", {}, 0.99, 0.15),
        ("tile", {"way": "blur"}, 0.99, 0.15),
        ("tile", {"amount": 24.0}, 0.99, 0.15),
        ("colour_grid", {}, 0.98, 0.25),
        ("colour_grid", {"cells": 5}, 0.98, 0.35),
    ],
)
def test_adherence_orders_real_photographs(name: str, parameters: dict, least_jpeg: float, most_other: float) -> None:  # type: ignore[type-arg]
    identical, near, far, none = (score(name, change, **parameters) for change in (same, compressed, warped, another))
    print(f"{name} {parameters}: same {identical:.3f} jpeg90 {near:.3f} warp {far:.3f} other {none:.3f}")
    assert identical == pytest.approx(1, abs=0.01) and near > least_jpeg and none < most_other
    assert identical >= near > far > none + 0.1


@pytest.mark.parametrize("name", [kind.name for kind in registry.all() if kind.scorer and kind.live])
def test_flat_tiny_and_oblong_images_work(name: str) -> None:
    scorer = registry.get(name).scorer
    assert scorer is not None
    for image in (flat(0), flat(255), flat(90, (32, 200)), photographs()[0][:33, :47]):
        map = made(name, image)
        assert map.shape == image.shape and map.dtype == np.uint8
        least = 0.3 if name == "shuffle" else 0.98  # shuffling preserves the colours of a small image only roughly
        assert least <= scorer(map, image, **registry.resolve_parameters(name)) <= 1.02


def test_line_art_has_dark_strokes_and_no_grain() -> None:
    image = flat(220, (100, 100))
    image[:, 49:51] = 40
    drawn = made("lineart", image)[..., 0]
    assert drawn[50, 50] == 255 and not drawn[:, :30].any() and not drawn[:, 70:].any()
    grain = np.clip(128 + np.random.default_rng(0).normal(0, 2, (100, 100, 1)), 0, 255).astype(np.uint8).repeat(3, 2)
    assert not made("lineart", grain).any()
    assert made("lineart", photographs()[0], strength=2.0).mean() > made("lineart", photographs()[0]).mean()
    assert made("lineart", photographs()[0], threshold=8.0).mean() < made("lineart", photographs()[0]).mean()


def test_straight_lines_keep_a_square_and_omit_short_lines() -> None:
    image = flat(20, (200, 200))
    cv2.rectangle(image, (50, 50), (150, 150), (230, 230, 230), -1)
    cv2.rectangle(image, (10, 10), (20, 20), (230, 230, 230), -1)
    drawn = made("lines", image, shortest=30.0)[..., 0]
    for row, column in ((50, 100), (150, 100), (100, 50), (100, 150)):
        assert drawn[row - 3 : row + 4, column - 3 : column + 4].any()
    assert not drawn[:40, :40].any() and not drawn[60:140, 60:140].any()
    assert not made("lines", image, shortest=200.0).any()


def test_grey_is_the_lightness_whatever_the_colour() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2).repeat(4, 0)
    lightness = made("grey", ramp)[0, :, 0].astype(int)
    assert lightness[0] == 0 and lightness[255] == 255 and (np.diff(lightness) >= 0).all()
    assert abs(lightness[119] - 127.5) <= 2  # L* of sRGB 119 is 50
    picture = made("grey", photographs()[1])
    assert (picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all()


def test_soft_brightness_drops_detail_and_scores_shape_not_level() -> None:
    image = photographs()[0]
    map = made("luminance", image)
    steps = [np.abs(np.diff(grey[..., 0].astype(int))).mean() for grey in (map, made("grey", image))]
    assert steps[0] < steps[1] / 4
    scorer = registry.get("luminance").scorer
    assert scorer is not None
    assert scorer(map, (image * 0.7 + 30).astype(np.uint8), blur=8.0) > 0.99
    assert scorer(map, 255 - image, blur=8.0) < -0.99


@pytest.mark.parametrize("way", ["shrink", "blur"])
def test_tile_keeps_mean_colours_and_scores_wrong_ones_low(way: str) -> None:
    image = photographs()[1]
    map = made("tile", image, way=way)
    assert np.abs(map.mean((0, 1)) - image.mean((0, 1))).max() < 2
    scorer, values = registry.get("tile").scorer, registry.resolve_parameters("tile", {"way": way})
    assert scorer is not None
    assert scorer(map, image[..., ::-1], **values) < 0.95 < scorer(map, jpeg(image, 40), **values)


def test_the_colour_grid_has_squares_of_the_mean_colour() -> None:
    map = made("colour_grid", photographs()[0])
    squares = map.reshape(16, 32, 16, 32, 3)
    assert (squares == squares[:, :1, :, :1]).all()
    two = flat(0, (64, 64))
    two[:, 32:] = (200, 30, 60)
    assert np.array_equal(made("colour_grid", two, cells=2), two)


@pytest.mark.parametrize("size", [(512, 768), (512, 800), (801, 512), (100, 333)])
def test_cropping_a_colour_grid_equals_the_grid_of_the_crop(size: tuple[int, int]) -> None:
    image = cv2.resize(photographs()[2], size[::-1])
    side = min(size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    middle = np.s_[top : top + side, left : left + side]
    differs = (made("colour_grid", image)[middle] != made("colour_grid", image[middle])).any(-1)
    if (max(size) - side) % 2 == 0 and side % 16 == 0:
        assert not differs.any()
    scorer = registry.get("colour_grid").scorer
    assert scorer is not None and scorer(made("colour_grid", image)[middle], image[middle], cells=16) > 0.95


def test_ssim_equals_scikit_images() -> None:
    for change in (warped, another):
        first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (photographs()[0], change(0)))
        _, every_pixel = structural_similarity(
            first, second, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
        )
        assert ssim(first, second) == pytest.approx(
            every_pixel.mean(), abs=1e-6
        )  # scikit-image's own mean omits the border


def test_ms_ssim_falls_with_noise_and_accepts_small_maps() -> None:
    first = cv2.cvtColor(photographs()[0], cv2.COLOR_RGB2GRAY)
    noise = np.random.default_rng(0).normal(0, 1, first.shape)
    noisy = [np.clip(first + noise * sigma, 0, 255).astype(np.uint8) for sigma in (5, 20, 60)]
    scores = [ms_ssim(first, other) for other in (first, *noisy)]
    assert scores[0] == pytest.approx(1) and scores == sorted(scores, reverse=True) and scores[-1] > 0
    assert ms_ssim(first[:20, :30], first[:20, :30]) == pytest.approx(1)
    assert ms_ssim(first, 255 - first) < 0.05


def test_correlation_ignores_level_and_concordance_does_not() -> None:
    first = photographs()[0][..., 0]
    darker = (first * 0.5).astype(np.uint8)
    assert correlation(first, darker) > 0.999 and concordance(first, darker) < 0.8
    rng = np.random.default_rng(0)
    one, two = (rng.integers(0, 256, (200, 200), np.uint8) for _ in range(2))
    assert abs(correlation(one, two)) < 0.02 and abs(concordance(one, two)) < 0.02
    even, other = np.full((4, 4), 7, np.uint8), np.full((4, 4), 9, np.uint8)
    assert correlation(even, even) == concordance(even, even) == 1
    assert correlation(even, one[:4, :4]) == concordance(even, other) == 0
