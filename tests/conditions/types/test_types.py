from __future__ import annotations

import io
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from engine.conditions import registry
from engine.conditions.coverage import coverage
from engine.conditions.metrics import cohen_kappa, edge_f1

NAMES = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins")


@cache
def photographs() -> list[np.ndarray]:
    """Real photographs, 512 x 512."""
    images = (Image.fromarray(getattr(data, name)()).convert("RGB") for name in NAMES)
    return [np.asarray(picture.resize((512, 512), Image.Resampling.LANCZOS)) for picture in images]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@cache
def maps(name: str, given: tuple[tuple[str, Any], ...]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Complete parameters of a type, and its map of every photograph."""
    values = registry.resolve_parameters(name, dict(given))
    return values, [registry.get(name).extractor(picture, **values) for picture in photographs()]


def score(name: str, change, **parameters) -> float:  # type: ignore[no-untyped-def]
    """Mean adherence of the photographs to their maps, after each photograph was changed by ``change(index)``."""
    scorer = registry.get(name).scorer
    assert scorer is not None
    values, wanted = maps(name, tuple(parameters.items()))
    return float(np.mean([scorer(map, change(index), **values) for index, map in enumerate(wanted)]))


def same(index: int) -> np.ndarray:
    return photographs()[index]


@cache
def compressed(index: int) -> np.ndarray:
    return jpeg(photographs()[index], 90)


@cache
def warped(index: int) -> np.ndarray:
    """Applies local shifts of about 2.5 px and another brightness."""
    image = photographs()[index]
    rng = np.random.default_rng(index)
    shifts = (cv2.resize(rng.standard_normal((6, 6)).astype(np.float32) * 2.5, (512, 512)) for _ in range(2))
    ys, xs = np.mgrid[:512, :512].astype(np.float32)
    moved = cv2.remap(image, *(place + shift for place, shift in zip((xs, ys), shifts, strict=True)), cv2.INTER_LINEAR)
    return np.clip(moved * 0.8 + 20, 0, 255).astype(np.uint8)


def another(index: int) -> np.ndarray:
    return photographs()[(index + 1) % len(NAMES)]


@pytest.mark.parametrize(
    ("name", "parameters", "least_jpeg", "most_other"),
    [
        ("canny", {}, 0.85, 0.15),
        ("canny", {"blur": 1.5}, 0.85, 0.15),
        ("light_dark", {}, 0.95, 0.25),
        ("light_dark", {"levels": 2}, 0.95, 0.25),
        ("light_dark", {"cuts": "fixed", "blur": 2.0}, 0.95, 0.25),
    ],
)
def test_adherence_orders_real_photographs(name: str, parameters: dict, least_jpeg: float, most_other: float) -> None:  # type: ignore[type-arg]
    identical, near, far, none = (score(name, change, **parameters) for change in (same, compressed, warped, another))
    print(f"{name} {parameters}: same {identical:.3f} jpeg90 {near:.3f} warp {far:.3f} other {none:.3f}")
    assert identical == pytest.approx(1) and near > least_jpeg and none < most_other
    assert near > far > none + 0.1


def test_random_edges_score_zero_and_edges_within_the_tolerance_one() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((256, 256)) < 0.05 for _ in range(2))
    assert abs(edge_f1(first, second, 2)) < 0.02
    line = np.zeros((64, 64), bool)
    line[:, 20] = True
    assert edge_f1(line, np.roll(line, 2, 1), 2) == pytest.approx(1)
    assert edge_f1(line, np.roll(line, 5, 1), 2) < 0
    empty = np.zeros_like(line)
    assert edge_f1(line, empty, 2) == edge_f1(empty, line, 2) == 0 and edge_f1(empty, empty, 2) == 1


def test_kappa_is_cohens() -> None:
    first, second = np.array([0] * 25 + [1] * 25), np.array([0] * 20 + [1] * 5 + [0] * 10 + [1] * 15)
    assert cohen_kappa(first, second) == pytest.approx(0.4)  # the textbook's worked example: 0.7 observed, 0.5 expected
    assert cohen_kappa(first, first) == 1 and cohen_kappa(first, 1 - first) == pytest.approx(-1)


def test_light_and_dark_has_the_requested_levels_with_equal_areas() -> None:
    kind = registry.get("light_dark")
    for levels, greys in ((2, {0, 255}), (3, {0, 128, 255})):
        made = kind.extractor(photographs()[0], **registry.resolve_parameters("light_dark", {"levels": levels}))
        values, counts = np.unique(made, return_counts=True)
        assert set(values) == greys and counts.min() / counts.sum() > 0.9 / levels
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2).repeat(4, 0)
    values = registry.resolve_parameters("light_dark", {"cuts": "fixed", "dark_below": 60, "light_above": 200})
    row = kind.extractor(ramp, **values)[0, :, 0]
    assert [(row == grey).sum() for grey in (0, 128, 255)] == [60, 140, 56]


def test_an_image_of_another_size_is_resized_for_comparison() -> None:
    for name in ("canny", "light_dark"):
        kind, values = registry.get(name), registry.resolve_parameters(name)
        half = cv2.resize(photographs()[1], (256, 256), interpolation=cv2.INTER_AREA)
        assert kind.scorer is not None and kind.scorer(kind.extractor(half, **values), photographs()[1], **values) > 0


def test_extractors_do_not_modify_their_input_and_return_rgb() -> None:
    for kind in registry.all():
        if not kind.live or kind.extract is None:
            continue  # needs weights or a program: has its own test module
        image = photographs()[2].copy()
        made = kind.extractor(image, **kind.resolve({}))
        assert made.shape == image.shape and made.dtype == np.uint8 and np.array_equal(image, photographs()[2])


def test_coverage_warns_about_nearly_empty_or_full_maps() -> None:
    canny = registry.get("canny")
    sound = coverage(canny.extractor(photographs()[0], **canny.resolve({})))
    assert 0.02 < sound["share"] < 0.3 and sound["levels"] == 2 and not sound["warning"]
    assert "nearly empty" in coverage(np.zeros((8, 8, 3), np.uint8))["warning"]
    assert "the same value" in coverage(np.full((8, 8, 3), 255, np.uint8))["warning"]
    crowded = np.full((50, 50), 255, np.uint8)
    crowded[0] = 0
    assert "nearly full" in coverage(crowded)["warning"]
    assert not coverage(np.arange(1, 251, dtype=np.uint8).reshape(25, 10))["warning"]  # a depth map has no empty pixels
