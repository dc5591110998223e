"""Signs of damage: colour drift, maps without effect, memorized images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.data.scan import scan_folder
from engine.evaluation import colour, effect, nearest
from engine.evaluation.adherence import Metric
from engine.evaluation.pairs import Pair
from engine.workspace.paths import Workspace


@pytest.mark.parametrize(("how", "name"), [(ImageEnhance.Color, "saturation"), (ImageEnhance.Contrast, "contrast")])
@pytest.mark.parametrize("strength", [0.5, 1.4])
def test_synthetic_drift_is_measured(photos: dict[str, np.ndarray], how: Any, name: str, strength: float) -> None:
    true = [pixels[:200, :200] for pixels in (photos["coffee"], photos["chelsea"])]
    drawn = [np.asarray(how(Image.fromarray(image)).enhance(strength)) for image in true]
    ratio = colour.drift(drawn, true)[name]
    assert ratio == pytest.approx(strength, abs=0.15)
    assert colour.drift(true, true) == {"saturation": 1.0, "contrast": 1.0}


def test_grey_images_do_not_blow_up_the_ratio() -> None:
    flat = [np.full((8, 8, 3), 128, np.uint8)]
    assert colour.drift(flat, flat) == {"saturation": pytest.approx(1), "contrast": pytest.approx(1)}


def test_less_different_seeds_have_a_smaller_spread(photos: dict[str, np.ndarray]) -> None:
    """Images of one map, mixed more and more with the same image."""
    shown = [photos[name][:200, :200].astype(float) for name in ("coffee", "chelsea", "astronaut")]

    def alike(weight: float) -> list[np.ndarray]:
        return [(weight * shown[0] + (1 - weight) * one).astype(np.uint8) for one in shown]

    found = [colour.spread([alike(weight)]) for weight in (0.0, 0.5, 0.9, 1.0)]
    assert found[0] > 1.5 * found[1] > 3 * found[2] > found[3] == 0
    assert colour.spread([alike(0.0), alike(1.0)]) == pytest.approx(found[0] / 2), "a mean over the prompts"
    assert colour.spread([[alike(0.0)[0]]]) == 0


def pair(number: int, size: int = 8) -> Pair:
    map = np.full((size, size, 3), number, np.uint8)
    return Pair(Sample(str(number), Path("x"), f"caption {number}", None, size, size), map, map)


def test_the_effect_test_uses_a_blank_and_another_map_for_each_seed() -> None:
    pairs = [pair(1), pair(2), pair(3, size=16)]
    drawn = effect.wrong_map_requests(pairs, seed=5, strength=0.8)
    assert [int(one.map.max()) for one in drawn] == [0, 0, 0, 2, 1, 3]
    assert [one.seed for one in drawn] == [5, 6, 7] * 2 and {one.strength for one in drawn} == {0.8}
    assert drawn[5].map.shape == (16, 16, 3), "alone in its size: its own map, turned"


def test_the_effect_is_zero_only_for_a_net_that_ignores_its_map() -> None:
    metric = Metric("x", lambda one, image: float((image == one.wanted).all()))
    pairs = [pair(1), pair(2)]
    right, other = [p.wanted for p in pairs], [p.wanted for p in pairs[::-1]]
    blank = [np.zeros((8, 8, 3), np.uint8)] * 2
    following = effect.measure_images(metric, pairs, right, blank, other)
    assert following.value == 1 and following.scores == {"right": 1, "blank": 0, "swapped": 0} and following.moved > 0
    ignoring = effect.measure_images(metric, pairs, right, right, right)
    assert ignoring.value == ignoring.moved == ignoring.moved_blank == 0


@pytest.fixture
def dataset(photos: dict[str, np.ndarray], tmp_path: Path) -> Dataset:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, pixels in photos.items():
        Image.fromarray(pixels[:300, :300]).save(folder / f"{name}.png")
    return Dataset.create(Workspace(tmp_path / "workspace"), "photos", scan_folder(folder))


def test_a_memorized_image_is_found(dataset: Dataset, photos: dict[str, np.ndarray]) -> None:
    """A recompressed copy of a training image is found, others are not; unreadable images are skipped."""
    trained = [sample for sample in dataset.samples() if "rocket" not in sample.key]
    copy = Image.fromarray(photos["coffee"][:300, :300]).resize((96, 96)).resize((256, 256))
    drawn = [np.asarray(copy), photos["rocket"][:256, :256]]
    true = [photos["rocket"][100:356, 100:356]] * 2
    gone = Sample("gone.png", Path("nowhere.png"), "", None, 64, 64)
    found = nearest.search(dataset, [gone, *trained], drawn, true)
    assert [(near.number, near.key) for near in found.drawn] == [(0, "coffee.png")]
    assert found.drawn[0].distance <= nearest.NEAR
    assert (found.looked_at, found.of, found.originals, found.suspicious) == (3, 4, 0, True)


def test_similar_training_images_cause_no_false_match(dataset: Dataset) -> None:
    trained = dataset.samples()
    true = [np.asarray(Image.open(sample.image)) for sample in trained]
    found = nearest.search(dataset, trained, true, true)
    assert len(found.drawn) == found.originals == 4
    assert not found.suspicious
