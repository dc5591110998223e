from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from engine.conditions import registry, variation, weights
from engine.conditions.types import external, soft_edge
from engine.data import make_maps, map_files
from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.jobs.control import Cancelled as JobCancelled
from engine.jobs.control import Control
from tests.conditions import tiny_models
from tests.data.test_scan import CancelAfter, Cancelled

pytestmark = pytest.mark.usefixtures("own_places")


class Workspace:
    def __init__(self, root: Path) -> None:
        self.root = root

    def dataset_folder(self, name: str) -> Path:
        return self.root / name


def squares(path: Path, seed: int, size: tuple[int, int] = (64, 64)) -> None:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(size, Image.Resampling.NEAREST).save(path)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "source" / "deeper").mkdir(parents=True)
    for number in range(10):
        squares(tmp_path / "source" / ("deeper" if number > 7 else "") / f"{number}.png", number)
    return Dataset.create(Workspace(tmp_path), "set", scan_folder(tmp_path / "source"))


def pixels(path: Path) -> np.ndarray:
    """Pixels of an image file, RGB."""
    return np.asarray(Image.open(path).convert("RGB"))


def dates(dataset: Dataset) -> dict[str, int]:
    return {s.key: dataset.condition_path(s).stat().st_mtime_ns for s in dataset.samples()}


@pytest.mark.parametrize("type", ["canny", "light_dark"])
def test_every_image_gets_its_lossless_map(dataset: Dataset, type: str) -> None:
    progress: list[tuple[int, int, str]] = []
    report = make_all(dataset, type, progress=lambda *p: progress.append(p))
    assert (report.made, report.kept, report.failures) == (10, 0, [])
    assert [p[:2] for p in progress] == [(n + 1, 10) for n in range(10)]
    kind = registry.get(type)
    for sample in dataset.samples():
        wanted = kind.extractor(np.asarray(Image.open(sample.image)), **kind.resolve({}))
        assert np.array_equal(pixels(dataset.condition_path(sample)), wanted)
    assert dataset.count(ready=True) == 10 and Dataset.open(dataset.folder).condition == dataset.condition
    assert not [p for p in dataset.folder.rglob("*") if p.suffix == ".tmp"]


def test_line_maps_have_one_bit_per_pixel_and_old_files_are_removed(dataset: Dataset) -> None:
    make_all(dataset, "canny")
    paths = [dataset.condition_path(sample) for sample in dataset.samples()]
    assert {path.suffix for path in paths} == {".png"} and {Image.open(path).mode for path in paths} == {"1"}
    make_all(dataset, "grey")
    others = [dataset.condition_path(sample) for sample in dataset.samples()]
    assert {path.suffix for path in others} == {".webp"} and not any(path.exists() for path in paths)
    make_all(dataset, "canny")
    assert all(path.exists() for path in paths) and not any(path.exists() for path in others)


def test_webp_maps_of_an_earlier_version_are_kept(dataset: Dataset) -> None:
    make_all(dataset, "canny")
    for sample in dataset.samples():
        path = dataset.condition_path(sample)
        Image.open(path).convert("RGB").save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
        assert dataset.condition_path(sample) == path.with_suffix(".webp")
    assert make_all(dataset, "canny").kept == 10


@pytest.mark.parametrize("kind", [kind for kind in registry.all() if kind.two_level], ids=lambda kind: kind.name)
def test_types_declared_binary_have_two_levels_for_all_settings(
    kind: registry.ConditionType, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    values = kind.resolve({p.name: p.vary[1] for p in kind.parameters if p.vary})
    map = kind.extractor(photos["coffee"][:200, :301], **values)
    map_files.write(tmp_path / "map.png", map, kind.name, values, two_level=True)
    assert np.array_equal(pixels(tmp_path / "map.png"), map)
    assert map_files.made_by(tmp_path / "map.png") == {"condition": kind.name, **values}
    with pytest.raises(ValueError, match="values other than"):
        map_files.write(tmp_path / "map.png", map // 2, kind.name, values, two_level=True)


def test_only_what_changed_is_made_again(dataset: Dataset) -> None:
    make_all(dataset, "canny")
    before = dates(dataset)
    report = make_all(dataset, "canny")
    assert (report.made, report.kept) == (0, 10) and dates(dataset) == before

    squares(dataset.samples()[2].image, 99)  # new content
    dataset.samples()[3].image.touch()  # new date only
    dataset.condition_path(dataset.samples()[5]).unlink()
    report = make_all(dataset, "canny")
    after = dates(dataset)
    assert (report.made, report.kept) == (2, 8)
    assert [n for n, key in enumerate(before) if after[key] != before[key]] == [2, 5]

    assert make_all(dataset, "canny", {"low": 20}).made == 10
    assert make_all(dataset, "canny", {"low": 20}, resolution=32).made == 10
    assert Image.open(dataset.condition_path(dataset.samples()[0])).size == (32, 32)


def test_a_stopped_job_continues_where_it_stopped(dataset: Dataset) -> None:
    with pytest.raises(Cancelled):
        make_all(dataset, "canny", token=CancelAfter(4), workers=1)
    ready = dataset.count(ready=True)
    assert 4 <= ready < 10
    report = make_all(dataset, "canny")
    assert report.made + report.kept == 10 and report.kept >= ready and dataset.count(ready=True) == 10


def test_a_bad_file_is_reported_and_the_job_continues(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.samples()[1].image.write_bytes(b"")
    dataset.samples()[4].image.unlink()
    report = make_all(dataset, "canny")
    assert report.made == 8 and [p.path.name for p in report.failures] == ["1.png", "4.png"]
    assert "zero bytes" in report.failures[0].why and dataset.count(ready=True) == 8
    assert len(dataset.held_out(3).train) == 5


def test_a_full_disk_ends_the_job_with_a_readable_error(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def full(old: Path, new: Path) -> None:
        if new.suffix == ".png":
            raise OSError(28, "No space left on device")
        real(old, new)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        make_all(dataset, "canny")


def test_nearly_empty_maps_are_listed(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "source" / "flat.png")
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(tmp_path / "source"))
    (warning,) = make_all(dataset, "canny").warnings
    assert warning.path.name == "flat.png" and "nearly empty" in warning.what


def test_the_images_are_never_touched(dataset: Dataset) -> None:
    before = [(s.image.read_bytes(), s.image.stat().st_mtime_ns) for s in dataset.samples()]
    make_all(dataset, "light_dark", {"blur": 1.0})
    assert [(s.image.read_bytes(), s.image.stat().st_mtime_ns) for s in dataset.samples()] == before


def test_ready_made_maps_are_not_made_again(tmp_path: Path) -> None:
    for folder in ("images", "conditions"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        squares(tmp_path / "source" / folder / "1.png", 1)
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(tmp_path / "source"))
    assert make_all(dataset, "own").kept == 1
    make_all(dataset, "canny")
    assert dataset.condition_path(dataset.samples()[0]).parent.parent == dataset.folder / "conditions"


def test_a_map_stores_its_parameters_and_varied_ones_are_repeatable(dataset: Dataset) -> None:
    make_all(dataset, "canny", varied=7)
    kind, used = registry.get("canny"), set()
    for sample in dataset.samples():
        path = dataset.condition_path(sample)
        parameters = map_files.made_by(path)
        assert parameters is not None and parameters.pop("condition") == "canny"
        wanted = variation.varied(kind, kind.resolve({}), 7, sample.key)
        low, high, blur = parameters["low"], parameters["high"], parameters["blur"]
        assert parameters == wanted and 50 <= low <= 130 and 130 <= high <= 260 and blur <= 1.5
        expected = kind.extractor(np.asarray(Image.open(sample.image)), **wanted)
        assert np.array_equal(pixels(path), expected)
        used.add((low, high, blur))
    assert len(used) == 10 and make_all(dataset, "canny", varied=7).made == 0
    assert make_all(dataset, "canny", varied=8).made == 10
    assert make_all(dataset, "canny").made == 10 and map_files.made_by(dataset.samples()[0].image) is None
    assert map_files.made_by(dataset.condition_path(dataset.samples()[0])) == {"condition": "canny", **kind.resolve({})}


def test_a_model_runs_on_batches_and_is_released_afterwards(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    original = soft_edge.soft_edge_batch

    def counted(images: list[np.ndarray], *, model: str, steps: int) -> list[np.ndarray]:
        passes.append(len(images))
        return original(images, model=model, steps=steps)

    monkeypatch.setattr(soft_edge, "soft_edge_batch", counted)
    values = {"model": str(tiny_models.hed(tmp_path / "hed.pth")), "steps": 0}
    dataset.samples()[3].image.write_bytes(b"")
    report = make_all(dataset, "soft_edge", values, workers=2)
    assert report.made == 9 and len(report.failures) == 1 and sorted(passes) == [2, 7]
    assert not weights.free(), "nothing stays loaded"
    for sample in dataset.samples(ready=True):
        wanted = soft_edge.soft_edge(np.asarray(Image.open(sample.image)), **values)
        written = np.asarray(Image.open(dataset.condition_path(sample))).astype(int)
        assert np.abs(written - wanted).max() <= 1


def test_a_failed_batch_is_repeated_image_by_image_to_find_the_bad_one(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = np.asarray(Image.open(dataset.samples()[4].image))

    def fails(images: list[np.ndarray], *, model: str, steps: int) -> list[np.ndarray]:
        if any(np.array_equal(image, bad) for image in images):
            raise RuntimeError("shapes cannot be multiplied")
        return [image.copy() for image in images]

    monkeypatch.setattr(soft_edge, "soft_edge_batch", fails)
    values = {"model": str(tiny_models.hed(tmp_path / "hed.pth"))}
    report = make_all(dataset, "soft_edge", values)
    assert report.made == 9 and [p.path.name for p in report.failures] == ["4.png"]
    assert "cannot be multiplied" in report.failures[0].why


@pytest.mark.parametrize("most", [3, 1])
def test_out_of_memory_reduces_the_batch_for_the_rest_of_the_job(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    passes: list[int] = []
    original = soft_edge.soft_edge_batch

    def tight(images: list[np.ndarray], *, model: str, steps: int) -> list[np.ndarray]:
        passes.append(len(images))
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return original(images, model=model, steps=steps)

    monkeypatch.setattr(soft_edge, "soft_edge_batch", tight)
    report = make_all(dataset, "soft_edge", {"model": str(tiny_models.hed(tmp_path / "hed.pth"))}, workers=1)
    assert (report.made, report.failures) == (10, [])
    assert passes[:2] == [8, 4] and max(passes[3:]) <= 2


def test_a_single_image_out_of_memory_is_a_readable_error(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(images: list[np.ndarray], *, model: str, steps: int) -> list[np.ndarray]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(soft_edge, "soft_edge_batch", full)
    report = make_all(dataset, "soft_edge", {"model": str(tiny_models.hed(tmp_path / "hed.pth"))})
    assert report.made == 0 and len(report.failures) == 10
    assert "not enough memory, even for one image" in report.failures[0].why
    assert "Close other programs" in report.failures[0].try_this


def test_a_lost_card_ends_the_job_at_once(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(images: list[np.ndarray], *, model: str, steps: int) -> list[np.ndarray]:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(soft_edge, "soft_edge_batch", lost)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        make_all(dataset, "soft_edge", {"model": str(tiny_models.hed(tmp_path / "hed.pth"))})


def test_missing_weights_stop_the_job_before_it_changes_the_dataset(dataset: Dataset) -> None:
    make_all(dataset, "canny")
    with pytest.raises(UserError, match="not on this computer"):
        make_all(dataset, "depth")
    with pytest.raises(UserError, match="No program"):
        make_all(dataset, "external")
    spec = Dataset.open(dataset.folder).condition
    assert spec is not None and spec.type == "canny" and dataset.count(ready=True) == 10


def test_a_program_that_always_fails_is_not_run_on_every_image(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(make_maps.HOPELESS + 30):
        squares(tmp_path / "source" / f"{number:03}.png", number)
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(tmp_path / "source"))
    external.allow("no-such-tool {input} {output}")
    with pytest.raises(UserError) as caught:
        make_all(dataset, "external", {"program": "no-such-tool {input} {output}"}, workers=1)
    assert "cannot be started" in caught.value.why and str(make_maps.HOPELESS) in caught.value.what


def test_a_cancel_stops_the_running_programs(dataset: Dataset, tmp_path: Path) -> None:
    started, control = tmp_path / "started", Control()
    started.mkdir()
    code = f"import os, pathlib, time; pathlib.Path({str(started)!r}, str(os.getpid())).touch(); time.sleep(60)"
    (tmp_path / "slow.py").write_text(code, encoding="utf-8")
    program = f'"{sys.executable}" -I -S "{tmp_path / "slow.py"}" {{input}} {{output}}'
    external.allow(program)

    def cancel() -> None:
        while len(list(started.iterdir())) < 2:
            time.sleep(0.02)
        cancelled.append(time.monotonic())
        control.cancel()

    cancelled: list[float] = []
    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(JobCancelled):
        make_all(dataset, "external", {"program": program}, control.token, workers=2)
    assert time.monotonic() - cancelled[0] < 20, "the programs sleep for 60 s"
    numbers = [int(file.name) for file in started.iterdir()]
    assert not [n for n in numbers if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]


def test_large_images_go_in_smaller_batches(dataset: Dataset) -> None:
    large = [replace(sample, width=4000, height=3000) for sample in dataset.samples()]
    assert [len(batch) for batch in make_maps.map_batches(iter(large), 8, None)] == [1] * 10
    assert [len(batch) for batch in make_maps.map_batches(iter(large), 8, 512)] == [8, 2]


def test_large_photographs_are_read_downscaled_with_similar_maps(tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    large = Image.fromarray(photos["astronaut"]).resize((2048, 2048), Image.Resampling.LANCZOS)
    large.save(tmp_path / "large.jpg", quality=95)
    read = make_maps.read_image(tmp_path / "large.jpg", 512)
    assert read.shape == (512, 512, 3)
    assert np.abs(read.astype(int) - photos["astronaut"]).mean() < 3
    assert make_maps.read_image(tmp_path / "large.jpg", None).shape == (2048, 2048, 3)
