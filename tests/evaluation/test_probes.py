"""Probes: images besides the held-out pairs, from odd prompts and from the user's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.config import ValidationConfig
from engine.config.validation import MOST_OWN
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.evaluation import probes
from engine.evaluation.pairs import Pair, read_pair
from engine.workspace.paths import Workspace

CAPTIONS = ["a red disc on a blue ground", "a red disc on a green ground", "a cat"]
PLAN = CropPlan(64)


@pytest.fixture(scope="module")
def dataset(photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("photos")
    for caption, (name, pixels) in zip(CAPTIONS, photos.items(), strict=False):
        Image.fromarray(pixels[:200, :260]).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    made = Dataset.create(Workspace(tmp_path_factory.mktemp("workspace")), "photos", scan_folder(folder))
    make_all(made, "canny", workers=1)
    return made


@pytest.fixture(scope="module")
def pairs(dataset: Dataset) -> list[Pair]:
    return [read_pair(sample, dataset, PLAN) for sample in dataset.samples()]


def test_the_contradicting_prompt_shares_the_fewest_words() -> None:
    assert probes.least_like(CAPTIONS[0], CAPTIONS) == "a cat"
    assert probes.least_like("a cat", CAPTIONS) == CAPTIONS[0]
    assert probes.least_like("a cat", ["A cat!", "cat, a"]) is None
    assert probes.least_like("a cat", []) is None


def test_zero_probes_are_allowed(pairs: list[Pair]) -> None:
    assert probes.of_held_out(pairs, 0) == []
    assert len(probes.of_held_out(pairs, 8)) == 6, "no more than there are pairs"


def test_own_images_get_maps_as_in_training(dataset: Dataset, pairs: list[Pair], tmp_path: Path) -> None:
    """An image in the user's folder gets the same map and crop as in the dataset."""
    first = dataset.samples()[0]
    Image.open(first.image).save(tmp_path / "mine.png")
    (tmp_path / "mine.txt").write_text("my own words\n", encoding="utf-8")
    (tmp_path / "notes.doc").write_text("no image", encoding="utf-8")
    settings = ValidationConfig(pictures_folder=str(tmp_path), prompts="never asked for")
    (probe,) = probes.own(settings, dataset, PLAN, pairs)
    assert (probe.kind, probe.prompt) == ("own", "my own words")
    assert np.array_equal(probe.pair.original, pairs[0].original)
    assert np.array_equal(probe.pair.wanted, pairs[0].wanted)
    as_map = probes.own(settings.model_copy(update={"pictures_are_maps": True}), dataset, PLAN, pairs)
    assert np.array_equal(as_map[0].pair.wanted, as_map[0].pair.original)


def test_prompts_without_images_use_held_out_maps(dataset: Dataset, pairs: list[Pair]) -> None:
    settings = ValidationConfig(prompts="one\n\n two \nthree\nfour")
    found = probes.own(settings, dataset, PLAN, pairs)
    assert [probe.prompt for probe in found] == ["one", "two", "three", "four"]
    assert [probe.pair for probe in found] == [*pairs, pairs[0]]
    assert probes.own(ValidationConfig(), dataset, PLAN, pairs) == []


def test_images_use_the_prompts_in_turn_up_to_a_limit(dataset: Dataset, pairs: list[Pair], tmp_path: Path) -> None:
    for number in range(MOST_OWN + 3):
        Image.new("RGB", (80, 70), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    settings = ValidationConfig(pictures_folder=str(tmp_path), prompts="one\ntwo", pictures_are_maps=True)
    found = probes.own(settings, dataset, PLAN, pairs)
    assert len(found) == MOST_OWN
    assert [probe.prompt for probe in found[:3]] == ["one", "two", "one"]


def test_the_remaining_time_depends_on_the_images_to_generate() -> None:
    assert ValidationConfig(pictures=4, probes=2).images_each_time == 8
    assert ValidationConfig(pictures=1, probes=2, prompts="a\n\nb").images_each_time == 5


def test_a_missing_folder_is_reported(dataset: Dataset, pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="own test images were not found"):
        probes.own(ValidationConfig(pictures_folder=str(tmp_path / "nowhere")), dataset, PLAN, pairs)
