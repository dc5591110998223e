"""Edited captions take precedence over files, never change them, and can be undone, also after a restart."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data import caption_edits as edits
from engine.data.caption_store import KEPT, CaptionStore
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace

CAPTIONS = {
    "astronaut": "an astronaut, smiling",
    "coffee": "a cup of coffee &amp; a spoon",
    "chelsea": "",
    "rocket": "a rocket",
}


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, caption in CAPTIONS.items():
        Image.fromarray(photos[name]).resize((96, 64)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    return folder


@pytest.fixture
def dataset(workspace: Workspace, folder: Path) -> Dataset:
    return Dataset.create(workspace, "photos", scan_folder(folder))


def now(dataset: Dataset) -> dict[str, str]:
    return {Path(sample.key).stem: sample.caption for sample in dataset.samples()}


def test_an_edit_takes_precedence_and_the_users_files_stay_unchanged(dataset: Dataset, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert edits.set_captions(dataset, {"rocket.png": "  a white\n rocket "}) == 1
    again = Dataset.open(dataset.folder)
    assert now(again)["rocket"] == "a white rocket" and again.sample("rocket.png").caption == "a white rocket"
    assert "a white rocket" in [s.caption for s in again.page(0).samples]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (
        Dataset.create(Workspace(dataset.folder.parents[1]), "photos", scan_folder(folder)).sample("rocket.png").caption
        == "a white rocket"
    ), "a new scan keeps edits"


def test_a_preview_changes_nothing_and_shows_what_would_change(dataset: Dataset) -> None:
    seen = edits.preview(dataset, edits.replacing("a", "the", whole_words=True))
    assert (seen.total, seen.changed) == (4, 2)
    assert seen.examples[0] == ("coffee.png", CAPTIONS["coffee"], "the cup of coffee &amp; the spoon")
    assert now(dataset) == CAPTIONS and dataset.captions.history() == [] and not dataset.captions.path.exists()


@pytest.mark.answers('Strange characters in captions, "Unknown escape sequence", UnicodeEncodeError')
@pytest.mark.parametrize(
    ("change", "name", "wanted"),
    [
        (edits.replacing(r"\ban?\b", "one", regex=True), "astronaut", "one astronaut, smiling"),
        (edits.adding(prefix="photo of"), "rocket", "photo of, a rocket"),
        (edits.adding(suffix="sharp", trigger="sks"), "rocket", "sks, a rocket, sharp"),
        (edits.cleaning(), "coffee", "a cup of coffee & a spoon"),
        (edits.templating("a photo of {name}"), "chelsea", "a photo of chelsea"),
        (edits.templating("a photo of {name}", only_empty=True), "rocket", "a rocket"),
        (edits.naming(only_empty=True), "chelsea", "chelsea"),
    ],
    ids=["regex", "prefix", "suffix and trigger", "clean", "template", "template for the empty", "names"],
)
def test_every_operation_can_be_undone(dataset: Dataset, change: edits.Change, name: str, wanted: str) -> None:
    fingerprint = dataset.fingerprint
    foreseen = edits.preview(dataset, change).changed
    assert edits.apply(dataset, "a change", change) == foreseen
    assert now(dataset)[name] == wanted
    assert edits.apply(dataset, "again", change) == 0, "a second time changes nothing"
    assert [entry.what for entry in dataset.captions.history()] == (["a change"] if foreseen else [])
    if foreseen:
        assert dataset.fingerprint != fingerprint
        dataset.captions.undo()
    assert now(dataset) == CAPTIONS and dataset.fingerprint == fingerprint


def test_undo_works_step_by_step_in_a_new_process(dataset: Dataset) -> None:
    edits.apply(dataset, "prefix", edits.adding(prefix="one"))
    edits.apply(dataset, "names", edits.naming())
    edits.set_captions(dataset, {"rocket.png": CAPTIONS["rocket"]})  # manually, back to the file's caption
    again = Dataset.open(dataset.folder)
    assert [entry.changed for entry in again.captions.history()] == [1, 4, 4]
    states = []
    while again.captions.undo():
        states.append(now(again))
    assert [state["rocket"] for state in states] == ["rocket", "one, a rocket", "a rocket"]
    assert states[-1] == CAPTIONS and again.captions.undo() is None


def test_only_the_last_operations_are_kept(dataset: Dataset) -> None:
    for number in range(KEPT + 3):
        edits.set_captions(dataset, {"rocket.png": f"rocket {number}"})
    history = dataset.captions.history()
    assert len(history) == KEPT
    while dataset.captions.undo():
        pass
    assert now(dataset)["rocket"] == "rocket 2", "as it was before the oldest one that is kept"


def test_a_cancelled_operation_changes_nothing(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "PAGE", 2)
    monkeypatch.setattr(edits, "REPORT_SECONDS", 0)
    control = Control()
    with pytest.raises(Cancelled):
        edits.apply(dataset, "x", edits.adding("x"), control.token, lambda *_: control.cancel())
    assert now(dataset) == CAPTIONS and dataset.captions.history() == []


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_many_captions_are_changed_page_by_page(dataset: Dataset, count: int) -> None:
    sample = dataset.samples(0, 1)[0]
    many = (replace(sample, key=f"{n:06d}.png", caption=f"a cat {n}" if n % 4 else "") for n in range(count))
    dataset.index.write(many, [])
    assert edits.apply(dataset, "dogs", edits.replacing("cat", "dog")) == count * 3 // 4
    assert edits.empty(dataset) == edits.EmptyCount(count // 4, count)
    assert dataset.sample(f"{count - 1:06d}.png").caption == f"a dog {count - 1}"
    tenth = count // 10 - 1  # 1999, which 19990 and 19991 begin with, too
    found = dataset.captions.find(dataset.index.path, "edited", f"DOG {tenth}", limit=3)
    assert [row.key for row in found] == [f"{n:06d}.png" for n in (tenth, 10 * tenth, 10 * tenth + 1)]
    assert found[0].edited
    dataset.captions.undo()
    assert dataset.captions.count(dataset.index.path, "edited") == 0


def test_listing_searches_literally(dataset: Dataset) -> None:
    edits.set_captions(dataset, {"rocket.png": "100% rocket_fuel"})
    index = dataset.index.path
    assert [row.key for row in dataset.captions.find(index, containing="%")] == ["rocket.png"]
    assert [row.key for row in dataset.captions.find(index, containing="t_f")] == ["rocket.png"]
    assert [row.key for row in dataset.captions.find(index, "empty")] == ["chelsea.png"]


def test_reading_creates_no_file(dataset: Dataset) -> None:
    assert edits.empty(dataset) == edits.EmptyCount(1, 4)
    assert not dataset.captions.path.exists()


def test_a_damaged_file_is_reported(dataset: Dataset) -> None:
    dataset.captions.path.write_bytes(b"not a database, by far" * 100)
    with pytest.raises(UserError, match="edited captions"):
        dataset.samples()


def test_an_invalid_operation_is_refused_before_it_starts() -> None:
    for make in (lambda: edits.replacing("(", "", regex=True), lambda: edits.templating("{nam}"), edits.adding):
        with pytest.raises(UserError):
            make()


def test_an_unedited_dataset_has_no_file_and_runs_no_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CaptionStore(tmp_path)
    monkeypatch.setattr(sqlite3, "connect", lambda *_: pytest.fail("asked"))
    samples = [Sample("a.png", tmp_path / "a.png", "a", None, 1, 1)]
    assert store.overlay(samples) is samples and store.history() == [] and store.digest() == ""
