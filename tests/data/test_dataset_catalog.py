"""Sets of images that are offered for download: the list, and getting one from a hub on this machine."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from engine.cli.main import main
from engine.data import dataset_catalog
from engine.data.dataset import Dataset
from engine.data.dataset_catalog import CatalogDataset, catalog_datasets, dataset_named, download_dataset, state_of
from engine.errors import UserError
from engine.hub import download
from engine.jobs.control import Cancelled, Control
from engine.queue.download_jobs import DownloadDataset
from engine.workspace.paths import Workspace
from tests.bases.hub import LocalHub, serving, use
from tests.data.sources.test_urls import png
from tests.data.tiny_sets import fill50k

FILL, BUTTERFLIES = (dataset_named(name) for name in ("fill50k", "butterflies"))


@pytest.fixture(scope="module")
def circles(photos: dict[str, np.ndarray]) -> dict[str, bytes]:
    return fill50k(photos)


@pytest.fixture
def hub(circles: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving(FILL.id, dict(circles), "dataset") as running:
        use(running, tmp_path, monkeypatch)
        yield running


def test_the_shipped_list_says_what_each_set_is_for_and_its_licence() -> None:
    sets = catalog_datasets()
    assert len({one.id for one in sets}) == len(sets) >= 3
    assert {one.maps for one in sets} == {True, False}
    for one in sets:
        assert one.use.endswith(".") and one.licence_means.endswith(".") and one.download_mb > 0, one.name
    assert dataset_named("FUSING/fill50k") == dataset_named("Fill50k: coloured circles") == FILL
    with pytest.raises(UserError, match=r"no dataset called x.*fill50k, nouns"):
        dataset_named("x")


@pytest.mark.parametrize(
    ("text", "words"),
    [("a = 1", "not a section"), ("[a]\ntitle = 'A'", "exactly these entries"), ("[a", "not valid TOML")],
)
def test_a_wrong_list_is_an_error_that_names_the_entry(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "datasets.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        catalog_datasets(tmp_path / "datasets.toml")


def test_pairs_in_zips_become_a_dataset_with_maps(
    workspace: Workspace, hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--workspace", str(workspace.root), "datasets"]
    assert main([*start, "get", "fill50k"]) == 0
    dataset = Dataset.open(workspace.dataset_folder("fill50k"))
    sample = dataset.sample("images/1.png")
    assert dataset.count(ready=True) == 3 and sample.caption == "circle 1"
    assert sample.condition is not None and "conditioning_images" in sample.condition.as_posix()
    assert dataset.origin == "fusing/fill50k on Hugging Face"
    assert not workspace.partial_dataset("fill50k").exists(), "what was downloaded is not kept twice"
    assert not any("fill50k.py" in path or "README" in path for path, *_ in hub.asked), "only what is read"
    asked = len(hub.asked)
    capsys.readouterr()
    assert main([*start, "get", "fill50k"]) == main([*start, "list"]) == 0
    said = capsys.readouterr().out
    assert "already downloaded" in said and "coloured circles: downloaded" in said and "Butterflies" in said
    assert "Licence: CC0 1.0" in said and len(hub.asked) == asked


def test_images_in_parquet_files_are_read_with_the_column_of_the_list(
    workspace: Workspace, photos: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"image_alt": "view", "name": f"Moth {n}", "image": {"bytes": png(photos["chelsea"], (64, 64 + n)), "path": ""}}
        for n in range(3)
    ]
    data = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows), data)
    files = {"data/train-00000-of-00001.parquet": data.getvalue(), "data/more/other.parquet": b"x", "x.json": b"{}"}
    job = DownloadDataset(name=BUTTERFLIES.name)
    with serving(BUTTERFLIES.id, files, "dataset") as running:
        use(running, tmp_path, monkeypatch)
        report = job.do(workspace, "", Control().token, lambda event: None)
    assert report.words == f"{BUTTERFLIES.name}: 3 images, 3 captions."
    assert "already downloaded" in job.do(workspace, "", Control().token, lambda event: None).words
    dataset = Dataset.open(Path(report.where))
    assert dataset.condition is None
    captions = {sample.caption for sample in dataset.samples()}
    assert captions == {"Moth 0", "Moth 1", "Moth 2"}


def test_a_cut_connection_and_a_cancel_go_on_where_they_were(workspace: Workspace, hub: LocalHub) -> None:
    hub.cuts = [5_000]
    control = Control()

    def stop(done: int, total: int, label: str) -> None:
        if label == "Megabytes unpacked":
            control.cancel()

    with pytest.raises(Cancelled):
        download_dataset(workspace, FILL, control.token, stop)
    ranges = [part for name in hub.files for part in hub.sent(name)]
    assert [part for part in ranges if part], "the rest was asked for"
    assert state_of(workspace, FILL).kind == "partly downloaded" and state_of(workspace, FILL).have > 0
    assert "fill50k" not in workspace.dataset_names()
    sent = [hub.sent(name) for name in hub.files]
    assert download_dataset(workspace, FILL).pictures == 3
    assert [hub.sent(name) for name in hub.files] == sent, "whole files are not fetched again"
    assert state_of(workspace, FILL).kind == "downloaded"


def test_room_is_asked_for_twice_the_download(
    workspace: Workspace, hub: LocalHub, circles: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(len(circles[name]) for name in FILL.files)
    monkeypatch.setattr(download, "free_bytes", lambda folder: 2 * size - 1)
    with pytest.raises(UserError, match="fusing/fill50k was not downloaded. It needs"):
        download_dataset(workspace, FILL)
    assert not any(hub.sent(name) for name in hub.files)


def test_a_disk_that_becomes_full_while_unpacking_keeps_the_download(
    workspace: Workspace, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("engine.data.sources.zips.write_new", full)
        with pytest.raises(UserError, match="No space left on device") as caught:
            download_dataset(workspace, FILL)
    assert "continues where it stopped" in caught.value.try_this
    sent = [hub.sent(name) for name in hub.files]
    assert download_dataset(workspace, FILL).pictures == 3
    assert [hub.sent(name) for name in hub.files] == sent


@pytest.mark.parametrize(
    ("where", "status", "headers", "words"),
    [
        ("/api/datasets/", 404, {"X-Error-Code": "RepoNotFound"}, ["no such dataset"]),
        ("/resolve/", 403, {"X-Error-Code": "GatedRepo"}, ["accepted its terms", "/datasets/fusing/fill50k"]),
        ("/storage/", 429, {}, ["too many requests"]),
    ],
)
def test_refusals_speak_of_the_dataset(
    workspace: Workspace, hub: LocalHub, where: str, status: int, headers: dict[str, str], words: list[str]
) -> None:
    hub.refuse[where] = (status, headers)
    with pytest.raises(UserError) as caught:
        download_dataset(workspace, FILL)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_repository_that_has_changed_and_a_name_that_is_taken_are_told_before_anything_is_fetched(
    workspace: Workspace, hub: LocalHub, paired_folder: Path
) -> None:
    del hub.files["conditioning_images.zip"]
    with pytest.raises(UserError, match="has changed. It no longer has a file conditioning_images.zip"):
        download_dataset(workspace, FILL)
    assert main(["--workspace", str(workspace.root), "import", str(paired_folder), "--name", "fill50k"]) == 0
    hub.asked.clear()
    with pytest.raises(UserError, match="already a dataset named fill50k"):
        download_dataset(workspace, FILL)
    assert hub.asked == [] and state_of(workspace, FILL).kind == "not downloaded"


def test_without_a_connection_it_says_how_to_bring_the_files(workspace: Workspace, hub: LocalHub) -> None:
    with pytest.raises(UserError, match="could not be reached") as caught:
        download_dataset(workspace, FILL, endpoint="http://127.0.0.1:9")
    assert "read that folder as your images" in caught.value.try_this


def test_a_pattern_does_not_reach_into_folders() -> None:
    one = CatalogDataset(**{**BUTTERFLIES.__dict__, "files": ("data/*.parquet", "data/a.parquet")})
    assert dataset_catalog.wanted_files(one, ["data/a.parquet", "data/old/b.parquet", "c.parquet"]) == [
        "data/a.parquet"
    ]
