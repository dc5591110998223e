"""Scores of one image by every scorer that the dataset supports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.data.description import ConditionSpec
from engine.data.samples import Sample
from engine.evaluation import adherence


class Stub:
    """A fake dataset with the attributes that scorers read."""

    def __init__(self, type: str, source: Any, parameters: dict[str, Any] | None = None) -> None:
        from engine.conditions import registry

        self.condition = ConditionSpec(type, registry.resolve_parameters(type, parameters or {}), "f")
        self.source = source


def sample(tmp_path: Any) -> Sample:
    return Sample("a.png", tmp_path / "a.png", "a", None, 64, 64)


def test_the_photograph_itself_scores_high_and_another_low(photos: dict[str, np.ndarray], tmp_path: Any) -> None:
    from engine.conditions import registry

    for name in ("canny", "light_dark"):
        dataset: Any = Stub(name, tmp_path)
        condition = registry.get(name)
        wanted = condition.extractor(photos["coffee"], **dataset.condition.parameters)
        measures = adherence.scorers(dataset)
        own = adherence.score_image(measures, sample(tmp_path), wanted, photos["coffee"])["adherence"]
        other = adherence.score_image(measures, sample(tmp_path), wanted, photos["chelsea"])["adherence"]
        assert own == pytest.approx(1)
        assert other < 0.35


def test_custom_maps_have_no_metric(tmp_path: Any) -> None:
    dataset: Any = Stub("own", tmp_path)
    assert adherence.scorers(dataset) == []


def test_the_mean_is_over_the_images_that_have_the_score() -> None:
    assert adherence.mean_scores([{"a": 1.0, "b": 0.0}, {"a": 0.0}]) == {"a": 0.5, "b": 0.0}
    assert adherence.mean_scores([]) == {}


def test_a_suffix_distinguishes_variants(tmp_path: Any) -> None:
    measures: list[adherence.Scorer] = [lambda *_: {"a": 1}]
    empty = np.zeros((8, 8, 3), np.uint8)
    assert adherence.score_image(measures, sample(tmp_path), empty, empty, "_x") == {"a_x": 1.0}


def test_generated_sets_have_an_exact_score(tmp_path: Any) -> None:
    """The true image scores 1, an image of another scene does not, and other datasets have no such score."""
    from engine.data.dataset import Dataset
    from engine.data.scan import scan_folder
    from engine.demo.circles import make_circles
    from engine.workspace.paths import Workspace

    folder = make_circles(tmp_path / "circles", 3, size=64)
    dataset = Dataset.create(Workspace(tmp_path / "workspace"), "circles", scan_folder(folder))
    measures = adherence.scorers(dataset)
    first, second = dataset.samples(0, 2)
    wanted = np.zeros((64, 64, 3), np.uint8)
    true, other = (np.asarray(Image.open(sample.image)) for sample in (first, second))
    right = adherence.score_image(measures, first, wanted, true)
    assert right["iou"] > 0.97 and right["colours"] == 1
    wrong = adherence.score_image(measures, first, wanted, other)
    assert wrong["iou"] < 0.9 and wrong["colours"] == 0
    stranger = Sample("images/999999.png", first.image, "", None, 64, 64)
    assert adherence.score_image(measures, stranger, wanted, true) == {}
