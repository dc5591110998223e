"""Control images of nets that read latents: encoded once, with the crops of the images, and again if a map changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import control_cache
from engine.data.cache import TrainingCache, cropped_map, open_or_build
from engine.data.control_cache import ControlCache
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.map_cache import KEPT
from engine.data.scan import scan_folder
from engine.disk.space import DiskFull
from engine.families.registry import detect
from engine.jobs.control import Cancelled, Control
from engine.training.job import build_trainer
from engine.workspace.paths import Workspace
from tests.families import made_up
from tests.short_runs import RunFactory

CPU = torch.device("cpu")
PLAN = CropPlan(64, "random", 2, seed=3)


class Counted(made_up.Encoded):
    """Counts the control images that are encoded, and the VAEs that are loaded for it."""

    encoded = loaded = 0

    def encode_control(self, maps: torch.Tensor, vae: Any = None) -> torch.Tensor:
        Counted.encoded += len(maps)
        return super().encode_control(maps, vae)

    def control_vae(self, base: str, device: torch.device) -> Any:
        Counted.loaded += 1
        return super().control_vae(base, device)


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    made_up.register(monkeypatch, Counted)
    Counted.encoded = Counted.loaded = 0
    yield str(made_up.build(tiny_base, tmp_path / "made-up"))


@pytest.fixture
def dataset(workspace: Workspace, tmp_path: Path) -> Dataset:
    """Three images of 160 x 100 px and one square one, with maps."""
    source = tmp_path / "pairs"
    for name in ("images", "conditions"):
        (source / name).mkdir(parents=True)
        for number, size in enumerate([(100, 160), (100, 160), (100, 160), (80, 80)]):
            pixels = np.random.default_rng([number, len(name)]).integers(0, 255, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(source / name / f"{number}.png")
    return Dataset.create(workspace, "pairs", scan_folder(source))


@pytest.fixture
def cache(dataset: Dataset, base: str, tmp_path: Path) -> TrainingCache:
    where, token = tmp_path / "cache", Control().token
    return open_or_build(where, detect(base), base, dataset.samples(), PLAN, CPU, token, lambda *_: None)


def build(dataset: Dataset, cache: TrainingCache, base: str, control: Control | None = None) -> ControlCache:
    data, token = (dataset, dataset.samples(), PLAN), (control or Control()).token
    made = control_cache.open_or_build(cache, detect(base), base, *data, CPU, token, lambda *_: None)
    assert isinstance(made, ControlCache)
    return made


def test_each_crop_is_encoded_once_as_its_image_is_cropped(dataset: Dataset, cache: TrainingCache, base: str) -> None:
    made, family = build(dataset, cache, base), detect(base)
    assert (Counted.encoded, Counted.loaded) == (cache.count, 1) and cache.count > len(dataset.samples())
    again = build(dataset, cache, base)
    assert (Counted.encoded, Counted.loaded) == (cache.count, 1), "the files are there"
    (described,), (shown,) = cache.folder.glob("control-*.json"), cache.folder.glob("control-*.png")
    assert "lines_kept" in json.loads(described.read_text(encoding="utf-8")) and shown.stem == described.stem
    vae = family.load_vae(base)
    for row, sample in enumerate(dataset.samples()):
        for variant in range(PLAN.variants_of(sample)):
            pixels = cropped_map(dataset.condition_path(sample), cache.crop(row, variant), nearest=False)
            fresh = family.encode_control(torch.tensor(pixels)[None], vae)[0]
            stored = torch.from_numpy(made.read(row, variant))
            assert stored.shape == cache.latent_shape(row) and stored.dtype == torch.float32
            assert torch.allclose(stored, fresh, atol=2e-3), "but for the rounding to fp16"
            assert np.array_equal(again.read(row, variant), stored.numpy())


def test_a_changed_map_and_a_broken_file_are_encoded_again(
    dataset: Dataset, cache: TrainingCache, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_cache, "SHARD", 2)  # several files
    before = build(dataset, cache, base).read(3)
    (file, *others) = sorted(cache.folder.glob("control-*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    assert np.array_equal(build(dataset, cache, base).read(3), before)
    assert len(others) == 3 and Counted.encoded == cache.count + 2, "only what was in that file"
    for level in (0, 100, 200):  # painted over by hand and scanned again
        Image.new("RGB", (80, 80), (level, 0, 0)).save(dataset.condition_path(dataset.samples()[3]))
        dataset = Dataset.create(Workspace(dataset.folder.parents[1]), dataset.name, scan_folder(dataset.source))
        made = build(dataset, cache, base)
    assert not np.allclose(made.read(3), before, atol=0.1)
    for ending in ("json", "png"):
        assert len(list(cache.folder.glob(f"control-*.{ending}"))) == KEPT, "older sets are deleted"


def test_a_cancelled_attempt_and_a_full_disk_leave_nothing_half_done(
    dataset: Dataset, cache: TrainingCache, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Control()
    stopped.cancel()
    with pytest.raises(Cancelled):
        build(dataset, cache, base, stopped)
    monkeypatch.setattr("engine.disk.space.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFull):
        build(dataset, cache, base)
    assert list(cache.folder.glob("control-*")) == []


def test_a_run_holds_no_vae_and_encodes_nothing_in_its_steps(
    base: str, new_run: RunFactory, ready_workspace: Workspace
) -> None:
    run = new_run(**{"model.base": base, "train.steps": 2, "validation.every": 0})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    before = Counted.encoded
    batch = trainer.state.batches.get(0)
    assert batch.maps is not None and batch.maps.shape == batch.mean.shape
    assert trainer.train() == "completed"
    trainer.close()
    assert Counted.loaded == 1 and Counted.encoded == before > 0, "its steps and loss checks read the cache"
