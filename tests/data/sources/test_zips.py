"""Zip archives: alone, in parts beside a list, damaged, and hostile."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engine.data.dataset import Dataset
from engine.data.import_config import ImportConfig
from engine.data.importing import import_source
from engine.data.sources import source_of
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace
from tests.data.sources.test_urls import png


def packed(path: Path, files: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def coffee(photos: dict[str, np.ndarray]) -> bytes:
    return png(photos["coffee"], (64, 64))


def test_one_archive_is_read_like_its_folder(workspace: Workspace, tmp_path: Path, coffee: bytes) -> None:
    files = {"set/cat.png": coffee, "set/cat.txt": "a cup", "set/dog.png": coffee, "__MACOSX/set/._cat.png": b"x"}
    path = packed(tmp_path / "mine.zip", {**files, "set/notes.docx": b"x"})
    result = import_source(workspace, str(path))
    assert (result.name, result.pictures, result.captioned, result.new) == ("mine", 2, 1, 2)
    assert "1 skipped: entries that end in .docx." in result.notes
    again = import_source(workspace, str(path))
    assert (again.new, again.present, again.pictures) == (0, 2, 2)


def test_the_parts_of_a_set_lie_together_and_their_list_names_images_and_maps(
    workspace: Workspace, tmp_path: Path, coffee: bytes
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for part in ("images", "conditioning_images"):
        packed(folder / f"{part}.zip", {f"{part}/{number}.png": coffee for number in range(3)})
    rows = [
        {"text": f"cup {n}", "image": f"images/{n}.png", "conditioning_image": f"conditioning_images/{n}.png"}
        for n in range(3)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = import_source(workspace, str(folder), config=ImportConfig(max_pictures=1))
    assert (result.pictures, result.captioned, result.paired) == (3, 3, True)
    assert any("does not apply to zip archives" in note for note in result.notes)
    sample = Dataset.open(result.folder).samples()[1]
    assert sample.condition is not None and sample.condition.parent.name == "conditioning_images"


def test_archives_with_the_same_names_get_a_folder_each(workspace: Workspace, tmp_path: Path, coffee: bytes) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a", "b"):
        packed(folder / f"{name}.zip", {"1.png": coffee})
    dataset = Dataset.open(import_source(workspace, str(folder)).folder)
    assert dataset.count() == 2


def test_archives_of_images_and_maps_are_pairs_whatever_else_is_in_them(
    workspace: Workspace, tmp_path: Path, coffee: bytes
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for part in ("images", "conditioning_images"):
        body = {f"{part}/{number}.png": coffee for number in range(3)}
        packed(folder / f"{part}.zip", {**body, "__MACOSX/._0.png": b"x", ".DS_Store": b"x"})
    assert import_source(workspace, str(folder)).paired
    for part in ("images", "conditioning_images"):  # now with a file of the same name in both
        packed(folder / f"{part}.zip", {**{f"{part}/{n}.png": coffee for n in range(3)}, "README.md": "a set"})
    result = import_source(workspace, str(folder), "again")
    assert result.paired and result.pictures == 3


def test_a_zip_beside_images_is_left_alone(tmp_path: Path, coffee: bytes) -> None:
    packed(tmp_path / "old.zip", {"1.png": coffee})
    (tmp_path / "own.png").write_bytes(coffee)
    assert source_of(str(tmp_path)) is None


def test_members_cannot_leave_the_folder(workspace: Workspace, tmp_path: Path, coffee: bytes) -> None:
    names = ["../../outside.png", str(tmp_path / "outside.png"), "a/../../b.png", "C:\\x.png", "con.png"]
    path = packed(tmp_path / "set.zip", {**dict.fromkeys(names, coffee), "fine.png": coffee})
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(workspace.root)}
    result = import_source(workspace, str(path))
    assert [sample.key for sample in Dataset.open(result.folder).samples()] == ["fine.png"]
    assert {p for p in tmp_path.rglob("*") if not p.is_relative_to(workspace.root)} == before
    assert f"{len(names) + 1} skipped: entries that are not regular files" in " ".join(result.notes)


def test_what_cannot_be_unpacked_is_told(
    workspace: Workspace, tmp_path: Path, coffee: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = packed(tmp_path / "whole.zip", {"1.png": coffee}, zipfile.ZIP_STORED).read_bytes()
    faults = {
        "cut": (whole[: len(whole) // 2], "end is missing or damaged"),
        "changed": (whole.replace(coffee[200:220], b"\0" * 20), "1 skipped: damaged inside changed.zip"),
        "secret": (whole.replace(b"\x14\0\0\0\0\0", b"\x14\0\x01\0\0\0"), "protected by a password"),
    }
    for name, (data, words) in faults.items():
        (tmp_path / f"{name}.zip").write_bytes(data)
        with pytest.raises(UserError, match=words) as caught:
            import_source(workspace, str(tmp_path / f"{name}.zip"))
        assert f"{name}.zip" in caught.value.what
    monkeypatch.setattr("engine.data.sources.zips.FREE_BYTES", 100_000)
    packed(tmp_path / "bomb.zip", {"1.bmp": bytes(1_000_000)})
    with pytest.raises(UserError, match="more than 200 times its size"):
        import_source(workspace, str(tmp_path / "bomb.zip"))


def test_a_cancelled_unpacking_goes_on(workspace: Workspace, tmp_path: Path, coffee: bytes) -> None:
    path = packed(tmp_path / "set.zip", {f"{number}.png": coffee for number in range(4)})
    control = Control()
    with pytest.raises(Cancelled):
        import_source(workspace, str(path), progress=lambda *_: control.cancel(), token=control.token)
    result = import_source(workspace, str(path))
    assert (result.new, result.present, result.pictures) == (3, 1, 4)
