"""Held-out pairs represent the whole dataset, and a run keeps the pairs it started with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.held_out import choose, describe, farthest, split
from engine.data.make_maps import make_all
from engine.data.scan import scan_folder
from engine.workspace.paths import Workspace


@pytest.fixture(scope="module")
def pieces(photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """33 crops of one photograph and one crop of each of three others, with light and dark maps."""
    folder = tmp_path_factory.mktemp("pieces")
    for number in range(33):
        piece = photos["chelsea"][number : number + 200, 2 * number : 2 * number + 200]
        Image.fromarray(piece).save(folder / f"chelsea-{number:02d}.png")
    for name in ("astronaut", "coffee", "rocket"):
        Image.fromarray(photos[name][:200, :200]).save(folder / f"{name}.png")
    dataset = Dataset.create(Workspace(tmp_path_factory.mktemp("workspace")), "pieces", scan_folder(folder))
    make_all(dataset, "light_dark", workers=1)
    return dataset


def test_outliers_among_similar_images_are_chosen(pieces: Dataset) -> None:
    assert {"astronaut.png", "coffee.png", "rocket.png"} <= {Path(key).name for key in choose(pieces, 9)}


def test_the_choice_is_more_diverse_than_a_random_one(pieces: Dataset) -> None:
    def nearest(keys: list[str]) -> float:
        points = np.array([describe(pieces, pieces.sample(key)) for key in keys])
        apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
        return float(apart.min(axis=1).mean())

    drawn = [sample.key for sample in pieces.held_out(9).held_out]
    assert nearest(choose(pieces, 9)) > 1.5 * nearest(drawn)


def test_the_choice_depends_on_the_seed_only(pieces: Dataset) -> None:
    assert choose(pieces, 5) == choose(Dataset.open(pieces.folder), 5)
    assert choose(pieces, 5) != choose(pieces, 5, seed=1)
    assert len(set(choose(pieces, 100))) == 18, "at most half"


def test_a_split_by_keys_skips_missing_images(pieces: Dataset) -> None:
    keys = choose(pieces, 4)
    apart = split(pieces, 4, [*keys, "gone"])
    assert [sample.key for sample in apart.held_out] == keys
    assert not {sample.key for sample in apart.train} & set(keys)
    assert len(apart.train) + 4 == pieces.count()


@pytest.mark.parametrize("keys", [None, [], ["gone"]])
def test_a_run_without_stored_keys_keeps_its_split(pieces: Dataset, keys: list[str] | None) -> None:
    assert split(pieces, 4, keys) == pieces.held_out(4)


def test_farthest_points_start_in_the_middle() -> None:
    points = np.array([[0.0], [9.0], [5.0], [1.0], [4.0]])
    assert farthest(points, 3) == [4, 1, 0]
    assert farthest(points, 0) == []
