"""Buckets, variants and their counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import DataConfig
from engine.data.crop import lost_fraction, shared_crop
from engine.data.crop_plan import CropPlan, bucket_sizes, count_buckets, nearest_bucket
from engine.data.samples import Sample


def sample(width: int, height: int, key: str = "a.png") -> Sample:
    return Sample(key, Path(key), "", None, width, height)


@pytest.mark.answers("Must images be exactly 512 px?")
@pytest.mark.parametrize("resolution", [64, 192, 512, 768, 1024])
def test_buckets_are_multiples_of_64_with_about_the_same_area(resolution: int) -> None:
    sizes = bucket_sizes(resolution)
    assert (resolution, resolution) in sizes and len(set(sizes)) == len(sizes)
    assert {(height, width) for width, height in sizes} == set(sizes), "tall as well as wide"
    for width, height in sizes:
        assert width % 64 == height % 64 == 0
        assert 0.8 * resolution**2 <= width * height <= resolution**2


def test_bases_that_read_tokens_have_buckets_in_steps_of_16() -> None:
    sizes = bucket_sizes(512, 16)
    assert (512, 512) in sizes and all(side % 16 == 0 for size in sizes for side in size)
    assert all(0.8 * 512**2 <= width * height <= 512**2 for width, height in sizes)
    assert nearest_bucket(1500, 1000, 512, 16) == (624, 416), "nothing is cropped of 3 : 2"
    data = DataConfig(buckets=True, bucket_step=16)
    assert CropPlan.of(data).size(sample(1500, 1000)) == (624, 416)
    assert CropPlan.of(DataConfig(bucket_step=16)) == CropPlan.of(DataConfig()), "without buckets it has no effect"


def test_an_image_goes_into_the_bucket_that_crops_least() -> None:
    assert nearest_bucket(1000, 1000, 512) == (512, 512)
    assert nearest_bucket(1500, 1000, 512) == (640, 384)
    assert nearest_bucket(1000, 1500, 512) == (384, 640)
    assert nearest_bucket(9000, 1000, 512) == (768, 320)
    for width in range(300, 2000, 100):
        best = nearest_bucket(width, 800, 512)
        lost = [lost_fraction(shared_crop(width, 800, size)) for size in bucket_sizes(512)]
        assert lost_fraction(shared_crop(width, 800, best)) == pytest.approx(min(lost))


def test_variant_0_is_the_centre_and_the_others_are_repeatable() -> None:
    plan, wide = CropPlan(128, "random", 4, seed=7), sample(900, 300)
    crops = [plan.crop(wide, variant) for variant in range(plan.variants_of(wide))]
    assert crops[0] == shared_crop(900, 300, 128) and len({crop.box for crop in crops}) == 4
    assert crops == [CropPlan(128, "random", 4, seed=7).crop(wide, variant) for variant in range(4)]
    assert crops[1] != plan.crop(sample(900, 300, "b.png"), 1) and crops[1] != CropPlan(128, "random", 4).crop(wide, 1)
    assert plan.variants_of(sample(300, 300)) == 1, "no room to move"


def test_every_round_is_a_new_repeatable_choice() -> None:
    plan, wide = CropPlan(128, "random", 4, seed=7), sample(900, 300)
    seen = [plan.variant_at(wide, epoch) for epoch in range(60)]
    assert seen == [plan.variant_at(wide, epoch) for epoch in range(60)] and set(seen) == {0, 1, 2, 3}
    assert {CropPlan(128).variant_at(wide, epoch) for epoch in range(9)} == {0}


def test_settings_without_effect_do_not_change_the_fingerprint() -> None:
    assert CropPlan.of(DataConfig(crop_variants=9), seed=5) == CropPlan.of(DataConfig(), seed=6) == CropPlan(512)
    assert CropPlan.of(DataConfig(crop="random"), seed=5) == CropPlan(512, "random", 4, False, 5)


def test_counts_have_images_and_cropped_fraction() -> None:
    samples = [sample(600, 400)] * 3 + [sample(400, 400)] * 2 + [sample(400, 620)]
    counts = count_buckets(samples, CropPlan(512, buckets=True))
    assert [(entry.size, entry.images) for entry in counts] == [((640, 384), 3), ((512, 512), 2), ((384, 640), 1)]
    assert counts[0].lost == pytest.approx(0.1) and counts[1].lost == 0
    (square,) = count_buckets(samples, CropPlan(512))
    assert square.images == 6 and square.lost == pytest.approx((3 / 3 + 0 + (1 - 400 / 620)) / 6)
