from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.conditions import batch, registry
from engine.conditions.batch import make_all
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from tests.data.test_scan import CancelAfter, Cancelled


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


def dates(dataset: Dataset) -> dict[str, int]:
    return {s.key: dataset.condition_path(s).stat().st_mtime_ns for s in dataset.samples()}


@pytest.mark.parametrize("type", ["canny", "light_dark"])
def test_every_picture_gets_its_lossless_map(dataset: Dataset, type: str) -> None:
    told: list[tuple[int, int, str]] = []
    report = make_all(dataset, type, progress=lambda *p: told.append(p))
    assert (report.made, report.kept, report.failures) == (10, 0, [])
    assert [p[:2] for p in told] == [(n + 1, 10) for n in range(10)]
    kind = registry.get(type)
    for sample in dataset.samples():
        wanted = kind.extractor(np.asarray(Image.open(sample.image)), **kind.resolve({}))
        assert np.array_equal(np.asarray(Image.open(dataset.condition_path(sample))), wanted)
    assert dataset.count(ready=True) == 10 and Dataset.open(dataset.folder).condition == dataset.condition
    assert not [p for p in dataset.folder.rglob("*") if p.suffix == ".tmp"]


def test_only_what_changed_is_made_again(dataset: Dataset) -> None:
    make_all(dataset, "canny")
    before = dates(dataset)
    report = make_all(dataset, "canny")
    assert (report.made, report.kept) == (0, 10) and dates(dataset) == before

    squares(dataset.samples()[2].image, 99)  # another content
    dataset.samples()[3].image.touch()  # another date only
    dataset.condition_path(dataset.samples()[5]).unlink()
    report = make_all(dataset, "canny")
    after = dates(dataset)
    assert (report.made, report.kept) == (2, 8)
    assert [n for n, key in enumerate(before) if after[key] != before[key]] == [2, 5]

    assert make_all(dataset, "canny", {"low": 20}).made == 10
    assert make_all(dataset, "canny", {"low": 20}, resolution=32).made == 10
    assert Image.open(dataset.condition_path(dataset.samples()[0])).size == (32, 32)


def test_a_stopped_run_goes_on_where_it_stopped(dataset: Dataset) -> None:
    with pytest.raises(Cancelled):
        make_all(dataset, "canny", token=CancelAfter(4), workers=1)
    ready = dataset.count(ready=True)
    assert 4 <= ready < 10
    report = make_all(dataset, "canny")
    assert report.made + report.kept == 10 and report.kept >= ready and dataset.count(ready=True) == 10


def test_a_bad_file_is_reported_and_the_rest_goes_on(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.samples()[1].image.write_bytes(b"")
    dataset.samples()[4].image.unlink()
    report = make_all(dataset, "canny")
    assert report.made == 8 and [p.path.name for p in report.failures] == ["1.png", "4.png"]
    assert "zero bytes" in report.failures[0].why and dataset.count(ready=True) == 8
    assert len(dataset.held_out(3).train) == 5


def test_a_full_disk_ends_the_run_with_a_sentence(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batch, "replace_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        make_all(dataset, "canny")


def test_nearly_empty_maps_are_named(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "source" / "flat.png")
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(tmp_path / "source"))
    (warning,) = make_all(dataset, "canny").warnings
    assert warning.path.name == "flat.png" and "nearly empty" in warning.what


def test_the_pictures_are_never_touched(dataset: Dataset) -> None:
    before = [(s.image.read_bytes(), s.image.stat().st_mtime_ns) for s in dataset.samples()]
    make_all(dataset, "light_dark", {"blur": 1.0})
    assert [(s.image.read_bytes(), s.image.stat().st_mtime_ns) for s in dataset.samples()] == before


def test_maps_that_came_along_need_no_making(tmp_path: Path) -> None:
    for folder in ("images", "conditions"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        squares(tmp_path / "source" / folder / "1.png", 1)
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(tmp_path / "source"))
    assert make_all(dataset, "own").kept == 1
    make_all(dataset, "canny")
    assert dataset.condition_path(dataset.samples()[0]).parent.parent == dataset.folder / "conditions"
