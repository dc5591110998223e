"""Prepared condition maps have the pixels of the files, are made once, and again if a file changes."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import map_cache
from engine.data.cache import TrainingCache, cropped_map, open_or_build
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.map_cache import MapCache, map_key, smallest
from engine.data.scan import scan_folder
from engine.families.registry import detect
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace

PLAN = CropPlan(128, "random", 2, True, seed=3)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(params=["colour", "grey", "black and white"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dataset(kind: str, workspace: Workspace, photos: dict[str, np.ndarray], tmp_path: Path) -> Dataset:
    """Wide and square crops of photographs, with maps of one kind."""
    source = tmp_path / "pairs"
    for name in ("images", "conditions"):
        (source / name).mkdir(parents=True)
    for number, photo in enumerate(photos.values()):
        wide = 90 * (number % 2) if kind != "black and white" else 0  # binary maps are not resized: see below
        piece = Image.fromarray(photo[20:180, 30 : 190 + wide])
        piece.save(source / "images" / f"{number}.png")
        map = piece if kind == "colour" else piece.convert("L")
        if kind == "black and white":
            map = map.point(lambda level: 255 * (level > 100)).resize((128, 128), Image.Resampling.NEAREST)
        map.convert("RGB").save(source / "conditions" / f"{number}.png")
    return Dataset.create(workspace, kind, scan_folder(source))


@pytest.fixture
def cache(dataset: Dataset, tiny_base: Path, tmp_path: Path) -> TrainingCache:
    base, token = str(tiny_base), Control().token
    family, plan = detect(base), plan_of(dataset)
    return open_or_build(
        tmp_path / "cache", family, base, dataset.samples(), plan, torch.device("cpu"), token, lambda *_: None
    )


def plan_of(dataset: Dataset) -> CropPlan:
    """Binary maps have their final size, because resizing would add grey."""
    return PLAN if dataset.name != "black and white" else CropPlan(128)


def build(dataset: Dataset, cache: TrainingCache, control: Control | None = None, progress: Any = None) -> MapCache:
    token, progress = (control or Control()).token, progress or (lambda *_: None)
    made = map_cache.open_or_build(cache, dataset, dataset.samples(), plan_of(dataset), token, progress)
    assert made is not None
    return made


def test_prepared_maps_equal_the_files(
    kind: str, dataset: Dataset, cache: TrainingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_cache, "SHARD_BYTES", 3 * 128 * 128 * 2)  # several files
    made, samples, plan = build(dataset, cache), dataset.samples(), plan_of(dataset)
    seen = 0
    for row, sample in enumerate(samples):
        for variant in range(plan.variants_of(sample)):
            wanted = cropped_map(dataset.condition_path(sample), cache.crop(row, variant), nearest=False)
            assert np.array_equal(made.read(row, variant), wanted)
            seen += 1
    assert seen == cache.count
    pixels = sum(path.stat().st_size for path in cache.folder.glob("maps-*.safetensors")) / cache.count / 128**2
    assert pixels == pytest.approx({"colour": 3, "grey": 1, "black and white": 1 / 8}[kind], abs=0.2)


@pytest.mark.parametrize("kind", ["grey"], indirect=True)
def test_maps_are_prepared_once_and_again_if_a_file_changes(
    dataset: Dataset, cache: TrainingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(dataset, cache)
    before = map_key(dataset, dataset.samples())
    with monkeypatch.context() as patched:
        patched.setattr(map_cache, "make_all", lambda *_: pytest.fail("made twice"))
        build(dataset, cache)
    for _ in range(3):  # edited manually and scanned again
        path = dataset.condition_path(dataset.samples()[0])
        Image.fromarray(255 - np.asarray(Image.open(path)) // 2).save(path)
        dataset = Dataset.create(Workspace(dataset.folder.parents[1]), dataset.name, scan_folder(dataset.source))
        made = build(dataset, cache)
    assert map_key(dataset, dataset.samples()) != before
    wanted = cropped_map(dataset.condition_path(dataset.samples()[0]), cache.crop(0), nearest=False)
    assert np.array_equal(made.read(0), wanted)
    assert len(list(cache.folder.glob("maps-*.json"))) == map_cache.KEPT
    assert len({path.name.split("-")[1] for path in cache.folder.glob("maps-*.safetensors")}) == map_cache.KEPT


@pytest.mark.parametrize("kind", ["colour"], indirect=True)
def test_a_cancelled_build_is_not_used(dataset: Dataset, cache: TrainingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_cache, "SHARD_BYTES", 3 * 128 * 128 * 2)
    control = Control()
    with pytest.raises(Cancelled):
        build(dataset, cache, control, lambda *_: control.cancel())
    assert not list(cache.folder.glob("maps-*.json"))
    assert build(dataset, cache).read(3).std() > 1


@pytest.mark.parametrize("kind", ["colour"], indirect=True)
def test_nothing_is_written_to_a_full_disk(
    dataset: Dataset, cache: TrainingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 2**30))
    samples, plan = dataset.samples(), plan_of(dataset)
    assert map_cache.open_or_build(cache, dataset, samples, plan, Control().token, lambda *_: None) is None
    assert not list(cache.folder.glob("maps-*"))


def test_labels_and_grey_levels_are_unchanged() -> None:
    maps = np.zeros((2, 8, 12, 3), np.uint8)
    maps[0, 0, 0] = 254
    assert smallest(maps).shape == (2, 8, 12, 1)
    maps[0, 0, 0, 1] = 7
    assert smallest(maps) is maps
