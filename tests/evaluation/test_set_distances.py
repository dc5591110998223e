"""KID and FID: compared with direct computations, closed forms, and by what they say of degraded sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.linalg import sqrtm

from engine.evaluation import set_distances
from engine.evaluation.evaluate import distances
from engine.evaluation.report import facts
from engine.evaluation.set_distances import MIN_FID, fid, kid, polynomial_mmd, why_no_fid
from tests.evaluation.test_evaluate import made_up


def normal(count: int, wide: int, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return shift + scale * np.random.default_rng([seed, round(100 * shift)]).standard_normal((count, wide))


def test_kid_is_the_unbiased_mmd_over_all_pairs() -> None:
    first, second = normal(7, 3), normal(5, 3, 0.5)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        return float(np.mean([kernel(x, y) for x, y in itertools.permutations(rows, 2)]))

    across = np.mean([kernel(x, y) for x in first for y in second])
    assert polynomial_mmd(first, second) == pytest.approx(within(first) + within(second) - 2 * across)


def test_the_mean_over_subsets_is_that_of_the_whole_sets_and_has_a_spread() -> None:
    first, second = normal(400, 16), normal(400, 16, 0.5)
    found = kid(first, second)
    assert found == kid(first, second), "the subsets are the same each time"
    assert found.value == pytest.approx(1000 * polynomial_mmd(first, second), rel=0.05)
    assert 0 < found.spread < found.value
    same = kid(first, normal(400, 16, seed=1))
    assert abs(same.value) < 2 * same.spread
    with pytest.raises(ValueError, match="at least four"):
        kid(first[:3], second)


def test_fid_is_the_formula_with_a_matrix_root_and_that_of_known_gaussians() -> None:
    first, second = normal(300, 6), normal(300, 6, 0.3, 2.0) @ np.diag(np.arange(1, 7))
    means = first.mean(0) - second.mean(0)
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    wanted = means @ means + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert fid(first, second) == pytest.approx(wanted, rel=1e-9)
    assert fid(first, first) == pytest.approx(0, abs=1e-9)
    wide = 4  # between N(0, I) and N(1, 4 I): wide (1 + (2 - 1)^2)
    assert fid(normal(100_000, wide), normal(100_000, wide, 1.0, 2.0)) == pytest.approx(2 * wide, rel=0.02)


def test_both_grow_with_the_share_of_spoilt_images() -> None:
    true, others = normal(200, 8), normal(200, 8, seed=1)
    sets = [np.concatenate([others[spoilt:], others[:spoilt] + 1]) for spoilt in (0, 50, 100, 200)]
    for distance in (lambda rows: kid(true, rows).value, lambda rows: fid(true, rows)):
        found = [distance(rows) for rows in sets]
        assert found == sorted(found)


def test_fid_is_left_out_of_reports_of_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_no_fid(MIN_FID) == "" and "64 images" in why_no_fid(64)
    found = distances(normal(64, 8) / 8, normal(64, 8, seed=1) / 8, normal(64, 8, 0.8) / 8)
    assert "fid" not in found and abs(found["kid"]) < found["kid_without_control"]
    scores = dict.fromkeys(("score", "score_without_control", "score_of_true_pictures", "cmmd"), 1.0)
    scores |= {"cmmd_without_control": 1.0}
    told = dict(facts(made_up(clip={**scores, "model": "clip", **found})))
    assert "±" in told["KID (CLIP features) x 1,000"] and "2,048" in told["FID"]
    monkeypatch.setattr(set_distances, "SUBSET", 50)
    found = distances(normal(MIN_FID, 8), normal(MIN_FID, 8, seed=1), normal(MIN_FID, 8, 0.8))
    told = dict(facts(made_up(clip={**scores, "model": "clip", **found})))
    assert found["fid"] < found["fid_without_control"] and "FID" not in told
    assert told["FID (CLIP features)"].startswith(f"{found['fid']:.1f} (without control")
