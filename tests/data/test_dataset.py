from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from engine.data.cache import cropped_map
from engine.data.crop import shared_crop
from engine.data.dataset import Dataset
from engine.data.importing import import_source
from engine.data.map_cache import map_key
from engine.data.scan import scan_folder
from engine.disk.images import thumbnail
from engine.errors import UserError


class Workspace:
    def __init__(self, root: Path) -> None:
        self.root = root

    def dataset_folder(self, name: str) -> Path:
        return self.root / "datasets" / name


def fill(folder: Path, count: int, paired: bool = False) -> Path:
    for number in range(count):
        rng = np.random.default_rng(number)
        for place in ("images", "conditions") if paired else (".",):
            path = folder / place / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
            path.with_suffix(".txt").write_text(f"number {number}", encoding="utf-8")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.create(Workspace(tmp_path), "set", scan_folder(fill(tmp_path / "source", 20)))


def test_a_dataset_opens_as_it_was_created(dataset: Dataset, tmp_path: Path) -> None:
    again = Dataset.open(dataset.folder)
    assert (again.name, again.count(), again.source) == ("set", 20, tmp_path / "source")
    assert again.samples() == dataset.samples() and again.fingerprint == dataset.fingerprint
    sample = again.sample("003.png")
    assert (sample.caption, sample.width, sample.image) == ("number 3", 40, tmp_path / "source" / "003.png")
    assert sorted(p.name for p in dataset.folder.iterdir() if p.suffix in (".json", ".sqlite")) == [
        "dataset.json",
        "index.sqlite",
    ]


def test_a_page_reads_only_its_rows(dataset: Dataset) -> None:
    page = dataset.page(2, size=6)
    assert [s.key for s in page.samples] == [f"{n:03}.png" for n in range(12, 18)]
    assert (page.number, page.pages, page.total) == (2, 4, 20)
    assert len(dataset.page(99, size=6).samples) == 2
    with sqlite3.connect(dataset.folder / "index.sqlite") as connection:
        plan = str(connection.execute("EXPLAIN QUERY PLAN SELECT * FROM samples ORDER BY position LIMIT 6").fetchall())
    connection.close()
    assert "TEMP B-TREE" not in plan  # no sorting, so the cost depends on the page only


def test_the_fingerprint_depends_on_contents_and_captions_not_dates(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", 4)
    workspace = Workspace(tmp_path)
    first = Dataset.create(workspace, "set", scan_folder(source)).fingerprint
    (source / "000.png").touch()
    assert Dataset.create(workspace, "set", scan_folder(source)).fingerprint == first
    (source / "000.txt").write_text("changed", encoding="utf-8")
    second = Dataset.create(workspace, "set", scan_folder(source)).fingerprint
    Image.new("RGB", (40, 40)).save(source / "001.png")
    assert len({first, second, Dataset.create(workspace, "set", scan_folder(source)).fingerprint}) == 3


def test_ready_made_maps_are_used_unchanged(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", 3, paired=True)
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(source))
    assert dataset.condition is not None and (dataset.condition.type, dataset.condition.provided) == ("own", True)
    assert dataset.condition_path(dataset.samples()[0]) == source / "conditions" / "000.png"
    assert dataset.count(ready=True) == 3
    (source / "condition.json").write_text(json.dumps({"type": "light_dark", "parameters": {"levels": 2}}), "utf-8")
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(source))
    assert dataset.condition.type == "light_dark" and dataset.condition.parameters["levels"] == 2
    assert dataset.condition_path(dataset.samples()[0]) == source / "conditions" / "000.png"


def test_a_condition_is_stored_with_all_its_parameters(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="no condition maps yet"):
        dataset.condition_path(dataset.samples()[0])
    dataset.set_condition("canny", {"low": 50})
    spec = Dataset.open(dataset.folder).condition
    assert (
        spec is not None
        and spec.type == "canny"
        and spec.parameters == {"low": 50, "high": 200, "blur": 0.0, "edges": "colour"}
    )
    assert dataset.condition_path(dataset.samples()[0]) == dataset.folder / "conditions" / "000.png.png"
    assert dataset.set_condition("canny", {"low": 51}).fingerprint != spec.fingerprint
    for type, parameters in (("canny", {"lo": 1}), ("nothing", {}), ("own", {})):
        with pytest.raises(UserError):
            dataset.set_condition(type, parameters)


def test_held_out_samples_are_stable_also_when_images_are_added(tmp_path: Path) -> None:
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(fill(tmp_path / "source", 20)))
    split = dataset.held_out(5, seed=1)
    assert len(split.held_out) == 5 and len(split.train) == 15
    assert not {s.key for s in split.train} & {s.key for s in split.held_out}
    assert Dataset.open(dataset.folder).held_out(5, seed=1) == split
    assert dataset.held_out(5, seed=2) != split
    assert len(dataset.held_out(50).held_out) == 10
    larger = Dataset.create(Workspace(tmp_path), "more", scan_folder(fill(tmp_path / "source", 22)))
    kept = {s.key for s in larger.held_out(5, seed=1).held_out} & {s.key for s in split.held_out}
    assert len(kept) >= 3


def test_a_name_used_by_another_source_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already"):
        Dataset.create(Workspace(tmp_path), "set", scan_folder(fill(tmp_path / "other", 2)))
    assert Dataset.open(dataset.folder).count() == 20


def test_a_damaged_or_missing_dataset_raises_an_error(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a dataset"):
        Dataset.open(tmp_path)
    (dataset.folder / "dataset.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        Dataset.open(dataset.folder)


def test_many_threads_read_and_write_one_dataset(dataset: Dataset) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(10):
                dataset.index.mark_maps([(f"{number}-{step}", "spec", "digest")])
                assert len(dataset.samples(0, 5)) == 5
        except BaseException as error:  # otherwise an error in a thread would go unnoticed
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(dataset.index.map_states()) == 60


def test_problems_are_stored_with_the_dataset(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", 2)
    (source / "bad.png").write_bytes(b"")
    dataset = Dataset.create(Workspace(tmp_path), "set", scan_folder(source))
    (problem,) = Dataset.open(dataset.folder).problems()
    assert problem.path == source / "bad.png" and "zero bytes" in problem.why


def test_a_thumbnail_is_made_once_per_content(tmp_path: Path) -> None:
    Image.new("RGB", (1000, 500), (200, 10, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    small = thumbnail(tmp_path / "a.png", tmp_path / "cache", side=128)
    with Image.open(small) as image:
        assert image.size == (128, 64) and image.format == "WEBP"
    assert thumbnail(tmp_path / "b.png", tmp_path / "cache", side=128) == small
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_transparent_maps_are_told_and_datasets_of_earlier_versions_keep_their_rule(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", 3, paired=True)
    for number, light in enumerate((255, 255, 20)):
        lines = np.zeros((40, 40, 4), np.uint8)
        lines[10:14], lines[20:24] = (light, light, light, 255), (255, 255, 160, 255)
        Image.fromarray(lines).save(source / "conditions" / f"{number:03}.png")
    workspace = Workspace(tmp_path)
    made = import_source(cast("Any", workspace), str(source), "set")
    told = next(note for note in made.notes if note.startswith("Transparent parts of 3 condition maps"))
    assert "black in 2, for example 000.png; grey in 1, for example 002.png" in told, "dark and light yellow lines"
    dataset = Dataset.open(workspace.dataset_folder("set"))
    sample = dataset.samples(0, 1)[0]
    crop = shared_crop(40, 40, 40)
    assert sample.condition is not None
    assert cropped_map(sample.condition, crop, False, sample.old_ground)[0, 0, 0] == 0
    key = map_key(dataset, dataset.samples())

    description = json.loads((dataset.folder / "dataset.json").read_text("utf-8"))
    del description["grounds"]  # as an earlier version wrote it
    (dataset.folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    for _ in range(2):  # as it is, and after reading its folder again
        dataset = Dataset.open(dataset.folder)
        sample = dataset.samples(0, 1)[0]
        assert sample.condition is not None and sample.old_ground
        assert cropped_map(sample.condition, crop, False, sample.old_ground)[0, 0, 0] == 255
        assert map_key(dataset, dataset.samples()) != key and dataset.sample(sample.key).old_ground
        again = import_source(cast("Any", workspace), str(source), "set")
        assert not any("Transparent" in note for note in again.notes)
