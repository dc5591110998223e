"""Normalized adherence: its zero and one, its confidence interval, and comparing two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.conditions import registry
from engine.data.description import ConditionSpec
from engine.data.samples import Sample
from engine.evaluation.adherence import Metric, PairScores, compare, metric_of, normalize, score_pairs
from engine.evaluation.pairs import Pair


class Stub:
    """A fake dataset with the attributes that ``metric_of`` reads."""

    def __init__(self, type: str) -> None:
        self.condition = ConditionSpec(type, registry.resolve_parameters(type, {}), "f")
        self.source = Path("nowhere")


@pytest.fixture(scope="module")
def pairs(photos: dict[str, np.ndarray]) -> list[Pair]:
    """Four photographs of one size with their Canny maps."""
    import cv2

    canny, found = registry.get("canny"), []
    for name, pixels in photos.items():
        small = cv2.resize(pixels[:300, :300], (192, 192), interpolation=cv2.INTER_AREA)
        map = canny.extractor(small, **registry.resolve_parameters("canny", {}))
        found.append(Pair(Sample(name, Any, name, None, 192, 192), map, small))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("type", ["canny", "own"])
def test_true_images_score_1_and_wrong_ones_0(pairs: list[Pair], type: str) -> None:
    metric = metric_of(Stub(type))  # type: ignore[arg-type]
    true = [pair.original for pair in pairs]
    rows = score_pairs(metric, pairs, true, [metric.score(pair, pair.original) for pair in pairs])
    found = normalize(rows)
    assert found is not None
    assert found.value == found.low == found.high == pytest.approx(1)
    turned = score_pairs(metric, pairs, [*true[1:], true[0]], [1.0] * 4)
    wrong = normalize(turned)
    assert wrong is not None and wrong.value < 0.1


def test_without_an_extractor_or_its_weights_contours_are_compared(pairs: list[Pair]) -> None:
    assert metric_of(Stub("canny")).name == "adherence"  # type: ignore[arg-type]
    assert metric_of(Stub("own")).name == "likeness"  # type: ignore[arg-type]


def test_the_baseline_compares_with_other_maps_never_its_own(pairs: list[Pair]) -> None:
    asked: list[tuple[str, int]] = []

    def score(pair: Pair, drawn: np.ndarray) -> float:
        asked.append((pair.sample.key, int(drawn[0, 0, 0])))
        return 0.0

    images = [np.full((8, 8, 3), number, np.uint8) for number in range(4)]
    score_pairs(Metric("x", score, other_maps=2), pairs, images, [1.0] * 4)
    own = [(pair.sample.key, number) for number, pair in enumerate(pairs)]
    assert sorted(asked) == sorted(own + [(pairs[(n + by) % 4].sample.key, n) for n in range(4) for by in (1, 2)])


def rows(own: np.ndarray, other: float = 0.1, best: float = 0.9) -> list[PairScores]:
    return [PairScores(float(value), other, best) for value in own]


def test_the_interval_has_its_stated_coverage() -> None:
    """200 samples of 16 images with a true A of 0.5 and the standard deviation of real images, 0.17."""
    rng = np.random.default_rng(1)
    found = [normalize(rows(0.5 + 0.136 * rng.standard_normal(16))) for _ in range(200)]
    held = np.mean([o is not None and o.low <= 0.5 <= o.high for o in found])
    assert 0.87 <= held <= 0.99
    widths = [(o.high - o.low) / 2 for o in found if o is not None]
    assert np.mean(widths) == pytest.approx(1.96 * 0.17 / 4, rel=0.15)


def test_two_checkpoints_are_compared_pair_by_pair() -> None:
    """The second is better by 0.04 on every pair, much less than the difference between pairs."""
    rng = np.random.default_rng(2)
    hard = rng.uniform(0.2, 0.8, 16)
    better = hard + 0.04 + 0.01 * rng.standard_normal(16)
    alone = normalize(rows(hard)), normalize(rows(better))
    assert alone[0] is not None and alone[1] is not None and alone[0].high > alone[1].low
    gap = compare(rows(hard), rows(better))
    assert gap is not None and 0 < gap.low < gap.value < gap.high
    assert gap.value == pytest.approx(0.05, abs=0.01)
    back = compare(rows(better), rows(hard))
    assert back is not None and back.value == pytest.approx(-gap.value)


def test_without_enough_data_there_is_no_score() -> None:
    assert normalize([]) is normalize(rows(np.array([0.5]))) is None
    assert normalize(rows(np.array([0.5, 0.6]), other=0.9, best=0.91)) is None
    with pytest.raises(ValueError, match="one by one"):
        compare(rows(np.ones(3)), rows(np.ones(2)))
