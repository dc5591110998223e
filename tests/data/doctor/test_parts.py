from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from engine.data.doctor import captions, duplicates, names, pairs
from engine.data.doctor.alignment import TURNS, UNDO, align
from engine.data.doctor.finding import Summary
from engine.data.doctor.measure import blur, measure_image
from engine.data.layouts.model import NO_IMAGE, NO_MAP
from engine.data.samples import Problem


def test_near_pairs_equal_a_brute_force_comparison() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 300, np.uint64) * 2 + rng.integers(0, 2, 300, np.uint64)
    flips = [np.uint64(sum(1 << int(bit) for bit in rng.choice(64, n % 10, replace=False))) for n in range(300)]
    hashes = np.concatenate((base, base ^ np.array(flips, np.uint64)))
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    wanted = {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(apart <= 6, 1)), strict=True)}
    assert len(wanted) > 200 and set(duplicates.near_pairs(hashes)) == wanted


def test_a_hundred_thousand_hashes_need_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, 100_000, np.uint64, endpoint=False)
    hashes[-1] = hashes[0] ^ np.uint64(0b10101)
    compared = 0
    count = np.bitwise_count

    def counting(values: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += values.size
        return count(values)

    monkeypatch.setattr(duplicates.np, "bitwise_count", counting)
    assert (0, 99_999) in set(duplicates.near_pairs(hashes))
    assert compared < 0.03 * 100_000**2


def test_the_same_shape_in_other_colours_is_not_a_copy() -> None:
    shape = np.zeros((8, 8, 3), np.uint8) + 90
    shape[2:6, 2:6] = (200, 60, 60)
    other = shape.copy()
    other[2:6, 2:6] = (60, 110, 200)
    grey = np.repeat(cv2.cvtColor(shape, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    assert not duplicates.alike(shape.tobytes(), other.tobytes(), either_grey=False)
    assert duplicates.alike(shape.tobytes(), grey.tobytes(), either_grey=True)
    assert not duplicates.alike(shape.tobytes(), np.roll(shape, 3, 1).tobytes(), either_grey=True)


def test_every_rotation_has_an_inverse() -> None:
    map = np.arange(12).reshape(3, 4)
    assert all(np.array_equal(TURNS[UNDO[name]](turn(map)), map) for name, turn in TURNS.items())


def test_a_depth_map_matches_its_image_and_a_shift_is_measured_in_pixels() -> None:
    left, _, disparity = data.stereo_motorcycle()
    grey = cv2.cvtColor(left, cv2.COLOR_RGB2GRAY)
    depth = np.nan_to_num(disparity, posinf=0)
    depth = (depth / depth.max() * 255).astype(np.uint8)
    fits = align(grey, depth)
    assert max(abs(fits.dx), abs(fits.dy)) < 2 and fits.turned < fits.same + 0.25
    moved = align(grey, np.roll(depth, (-8, 12), (0, 1)))
    assert (moved.dx, moved.dy) == (pytest.approx(12, abs=1.5), pytest.approx(-8, abs=1.5))
    assert moved.there - moved.here > 0.05


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_photographs_are_sharp_and_their_blurred_copies_are_not(name: str, photos: dict[str, np.ndarray]) -> None:
    grey = cv2.cvtColor(photos[name], cv2.COLOR_RGB2GRAY)
    assert 0 <= blur(grey) < 1.6
    assert blur(cv2.GaussianBlur(grey, (0, 0), 4)) > 2.2
    assert blur(np.full((64, 64), 9, np.uint8)) == -1


def test_the_hash_equals_the_library_s(photos: dict[str, np.ndarray], tmp_path: Path) -> None:
    import imagehash

    Image.fromarray(photos["coffee"]).save(tmp_path / "a.png")
    facts, image = measure_image(tmp_path / "a.png")
    assert imagehash.hex_to_hash(facts.phash) - imagehash.phash(image) <= 2
    assert len(np.unique([len(facts.phash), 16])) == 1


@pytest.mark.answers('Strange characters in captions, "Unknown escape sequence", UnicodeEncodeError')
@pytest.mark.parametrize(
    ("broken", "right"),
    [
        ("a cafÃ© in the rain", "a café in the rain"),
        ("the kingâ€™s crown", "the king’s crown"),
        ("ein BÃ¤r in MÃ¼nchen", "ein Bär in München"),
        ("ÐºÐ¾ÑˆÐºÐ°", "кошка"),
        ("cafÃƒÂ©", "café"),
        ("a caf\ufffd by night", "a caf by night"),
    ],
)
def test_wrongly_decoded_text_is_repaired(broken: str, right: str) -> None:
    assert captions.repaired(broken) == right


@pytest.mark.parametrize(
    "text", ["ein Bär", "Ângelo e Ção", "кошка", "São Paulo – £5", "naïve façade", "50 °C, Ä", "猫"]
)
def test_correct_text_is_left_unchanged(text: str) -> None:
    assert captions.repaired(text) == text


def test_names_that_are_equal_on_some_systems() -> None:
    keys = ["Cat.jpg", "a/dog.png", "cat.JPG", "caf\u00e9.png", "cafe\u0301.png", "dog.png"]
    assert [(hit.key, hit.other) for hit in names.clashes(keys)] == [
        ("cat.JPG", "Cat.jpg"),
        ("cafe\u0301.png", "caf\u00e9.png"),
    ]


def test_problems_in_the_index_of_an_earlier_version_are_recognized() -> None:
    for sentence, finding in (
        ("This image has no condition map.", "map_missing"),
        (NO_MAP, "map_missing"),
        ("This condition map has no image.", "map_orphaned"),
        (NO_IMAGE, "map_orphaned"),
    ):
        found = pairs.of_problem(Problem(Path("a.png"), sentence, "", ""))
        assert found is not None and found.name == finding
    assert pairs.of_problem(Problem(Path("a.png"), "The file is empty.", "", "")) is None


@pytest.mark.parametrize(
    ("right", "down", "spread", "count", "words"),
    [
        (0.0, 1.1, 0.8, 60, "1.1 px too low at 512 px (median of 60 maps)"),
        (-1.2, -0.9, 0.4, 60, "1.2 px too far left, 0.9 px too high at 512 px (median of 60 maps)"),
        (0.3, 0.2, 0.5, 60, ""),  # what maps without a shift have, compared with lightness
        (1.0, 0.0, 6.0, 60, ""),  # each its own way
        (1.0, 0.0, 0.1, 11, ""),  # too few
        (3.0, 0.0, 0.2, 60, ""),  # found map by map
    ],
)
def test_maps_that_are_shifted_alike_are_found_by_their_median(
    right: float, down: float, spread: float, count: int, words: str
) -> None:
    offsets = np.random.default_rng(0).normal((right, down), spread, (count, 2))
    offsets += np.array([right, down]) - np.median(offsets, axis=0)
    summary = Summary(shifts=[(f"{row}.png", float(dx), float(dy)) for row, (dx, dy) in enumerate(offsets)])
    hits = list(pairs.common_shift(summary))
    assert [hit.detail for hit in hits] == [words] * (pairs.COMMON_EXAMPLES if words else 0)
