"""The warning distinguishes photographs from maps of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from engine.conditions import registry
from engine.conditions.similarity import differences, statistics_of, warning

TRAINED = ("astronaut", "coffee", "chelsea", "rocket")
FRESH = ("cat", "retina")
LINES = ("canny", "scribble", "lineart")


def photo(name: str) -> np.ndarray:
    return getattr(data, name)()[::2, ::2, :3]


def maps(kind: str, names: tuple[str, ...]) -> list[np.ndarray]:
    declared = registry.get(kind)
    return [declared.extractor(photo(name), **declared.resolve({})) for name in names]


@pytest.mark.parametrize("kind", [*LINES, "grey", "luminance"])
def test_a_photograph_is_distinguished_from_maps_and_a_new_map_is_accepted(kind: str) -> None:
    trained = [statistics_of(one) for one in maps(kind, TRAINED)]
    assert [differences(statistics_of(one), trained) for one in maps(kind, ("cat",))] == [[]]
    for name in (*TRAINED, *FRESH):
        words = warning(Image.fromarray(photo(name)), trained)
        assert words.startswith("This does not look like the control images"), name
        assert "let the app make its control image" in words


@pytest.mark.parametrize("kind", LINES)
def test_a_map_with_black_and_white_swapped_is_recognized(kind: str) -> None:
    trained = [statistics_of(one) for one in maps(kind, TRAINED)]
    assert "swapped" in warning(Image.fromarray(255 - maps(kind, ("cat",))[0]), trained)


def test_photograph_like_maps_accept_photographs() -> None:
    trained = [statistics_of(one) for one in maps("tile", TRAINED)]
    assert [warning(Image.fromarray(photo(name)), trained) for name in ("cat",)] == [""]
    assert "black" in warning(Image.fromarray(maps("canny", ("cat",))[0]), trained)


def test_without_reference_maps_there_is_no_warning(tmp_path: Path) -> None:
    assert warning(Image.fromarray(photo("cat")), []) == ""


def test_statistics_of_plain_images() -> None:
    black, half = statistics_of(np.zeros((300, 200, 3), np.uint8)), np.zeros((64, 64, 3), np.uint8)
    half[:, 32:] = (255, 0, 0)
    assert (black.black, black.white, black.mean, black.variety) == (1, 0, 0, 0)
    assert statistics_of(half).black == 0.5 and statistics_of(half).colour == 0.5
    assert statistics_of(half).variety == pytest.approx(1 / 12)
