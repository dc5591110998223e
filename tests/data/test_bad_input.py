"""Bad input: odd names, broken links, disks that disappear, huge images. It is reported and the rest continues."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data import read_images
from engine.data.dataset import Dataset
from engine.data.import_result import ImportResult
from engine.data.importing import import_source
from engine.data.index import Index
from engine.disk import images
from engine.disk.durable import atomic_write_bytes
from engine.errors import UserError
from engine.workspace.paths import Workspace


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, np.ndarray]) -> Path:
    """Four photographs, 96 px wide."""
    source = tmp_path / "source"
    source.mkdir()
    for name, photo in photos.items():
        Image.fromarray(photo).resize((96, 64)).save(source / f"{name}.jpg")
    return source


def problems(result: ImportResult) -> dict[str, str]:
    """File name -> the message."""
    found = Dataset.open(result.folder).problems()
    assert all(problem.what and problem.why and problem.try_this for problem in found)
    return {problem.path.name: f"{problem.what} {problem.why} {problem.try_this}" for problem in found}


def test_unicode_spaces_and_punctuation_in_names(workspace: Workspace, folder: Path) -> None:
    names = [
        "naïve café.jpg",
        "猫 と 犬.jpg",
        "👩‍🚀.jpg",
        " leading.jpg",
        "a%20b#c?.jpg",
        'it\'s "so".jpg',
        "[x] {y}.jpg",
    ]
    if sys.platform == "win32":
        names = [name for name in names if not set(name) & set('?"')]
    for name in names:
        shutil.copy(folder / "coffee.jpg", folder / name)
        (folder / name).with_suffix(".txt").write_text(f"caption of {name}", encoding="utf-8")
    result = import_source(workspace, f'"{folder}"', "Ünïcode – 猫")
    dataset = Dataset.open(workspace.dataset_folder("Ünïcode – 猫"))
    assert result.pictures == 4 + len(names) and result.problems == 0
    assert {name: dataset.sample(name).caption for name in names} == {name: f"caption of {name}" for name in names}


def test_very_long_names(workspace: Workspace, folder: Path) -> None:
    name = "ä" * 120 + ".jpg"  # 244 bytes: with .png appended too long for most systems
    shutil.copy(folder / "coffee.jpg", folder / name)
    result = import_source(workspace, str(folder))
    dataset = Dataset.open(result.folder)
    dataset.set_condition("canny")
    path = dataset.condition_path(dataset.sample(name))
    atomic_write_bytes(path, b"a map")
    assert path.parent == dataset.folder / "conditions" and path.name.startswith("ä" * 40)
    assert dataset.condition_path(dataset.sample("coffee.jpg")).name == "coffee.jpg.png"


def test_names_that_differ_only_in_case(workspace: Workspace, folder: Path) -> None:
    shutil.copy(folder / "coffee.jpg", folder / "COFFEE.JPG")
    if len(list(folder.iterdir())) == 4:
        pytest.skip("this disk does not tell case")
    result = import_source(workspace, str(folder))
    assert result.pictures == 5 and Dataset.open(result.folder).sample("COFFEE.JPG").image.name == "COFFEE.JPG"


@pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
def test_names_that_are_not_valid_text(workspace: Workspace, folder: Path) -> None:
    shutil.copy(folder / "coffee.jpg", os.fsencode(folder) + b"/caf\xe9.jpg")
    result = import_source(workspace, str(folder))
    assert result.pictures == 4
    assert "bytes that are not text" in problems(result)["caf\ufffd.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_circular_and_broken_links(workspace: Workspace, folder: Path) -> None:
    (folder / "round").symlink_to(folder, target_is_directory=True)
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "gone.jpg")
    (folder / "fine.jpg").symlink_to(folder / "coffee.jpg")
    result = import_source(workspace, str(folder))
    reasons = problems(result)
    assert result.pictures == 5 and reasons.keys() == {"round", "self.jpg", "nowhere.jpg"}
    assert "is a link and was skipped" in reasons["round"] and "leads back to itself" in reasons["self.jpg"]
    assert "broken link" in reasons["nowhere.jpg"]


def test_files_and_folders_without_read_permission(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "closed").mkdir()
    shutil.copy(folder / "coffee.jpg", folder / "secret.jpg")
    (folder / "rocket.txt").write_text("x", encoding="utf-8")
    real_open, real_walk, real_read = Image.open, os.scandir, Path.open

    def refuse(path: object) -> None:
        if Path(str(path)).name in ("secret.jpg", "closed", "rocket.txt"):
            raise PermissionError(13, "Permission denied", str(path))

    def opened(path: Path, *rest: object, **more: object) -> object:
        refuse(path)
        return real_open(path, *rest, **more)

    def scanned(path: object) -> object:
        refuse(path)
        return real_walk(path)

    def text(path: Path, *rest: object, **more: object) -> object:
        refuse(path)
        return real_read(path, *rest, **more)

    monkeypatch.setattr(images.Image, "open", opened)
    monkeypatch.setattr(os, "scandir", scanned)
    monkeypatch.setattr(Path, "open", text)
    result = import_source(workspace, str(folder))
    reasons = problems(result)
    assert result.pictures == 4 and reasons.keys() == {"secret.jpg", "closed", "rocket.jpg"}
    assert "permissions" in reasons["secret.jpg"] and "skipped" in reasons["closed"]
    assert "without a caption" in reasons["rocket.jpg"]


def test_a_folder_that_disappears_during_the_scan(
    workspace: Workspace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = import_source(workspace, str(folder))
    for path in folder.glob("*.jpg"):
        os.utime(path, (1, 1))  # so that they are read again

    def inspect(path: Path, min_side: int) -> images.Inspected:
        if path.name == "coffee.jpg":
            folder.rename(tmp_path / "unplugged")
        return images.inspect(path, min_side)

    monkeypatch.setattr(read_images, "inspect", inspect)
    with pytest.raises(UserError) as caught:
        import_source(workspace, str(folder))
    assert "no longer there" in caught.value.what and "remembered" in caught.value.try_this
    assert Dataset.open(before.folder).count() == 4, "the old index stays"
    (tmp_path / "unplugged").rename(folder)
    monkeypatch.undo()
    assert import_source(workspace, str(folder)).pictures == 4


@pytest.mark.skipif(sys.platform == "win32", reason="measures with the resource module")
def test_huge_images_are_read_one_at_a_time_and_bombs_are_not_read(workspace: Workspace, folder: Path) -> None:
    from tests.data.test_scan import png_of

    for number in range(2):  # 72 million pixels each: 216 MB decoded
        Image.new("RGB", (12_000, 6_000), (number, 100, 200)).save(folder / f"large{number}.png", compress_level=1)
    (folder / "bomb.png").write_bytes(png_of(50_000, 50_000))
    code = (
        "import resource, sys; from engine.workspace.paths import Workspace;"
        "from engine.data.importing import import_source;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "r = import_source(Workspace(sys.argv[1]), sys.argv[2]);"
        "print(r.pictures, r.problems, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(workspace.root), str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    pictures, bad, megabytes = map(int, child.stdout.split())
    assert (pictures, bad) == (6, 1)
    assert megabytes < 2 * 216, "two at a time would need more"
    dataset = Dataset.open(workspace.dataset_folder("source"))
    assert dataset.sample("large0.png").width == 12_000
    assert "far too large" in dataset.problems()[0].what


def test_a_folder_with_no_image_or_one(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no images in"):
        import_source(workspace, str(tmp_path / "none"))
    (tmp_path / "one").mkdir()
    shutil.copy(folder / "coffee.jpg", tmp_path / "one")
    result = import_source(workspace, str(tmp_path / "one"))
    assert result.pictures == 1 and "One image" in result.notes[0]
    assert workspace.dataset_names() == ["one"]


def test_a_read_only_folder_works_and_a_read_only_workspace_is_reported(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: written.append(Path(new)) or real(old, new))
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
    folder.chmod(0o555)
    import_source(workspace, str(folder))
    folder.chmod(0o755)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()} == before
    assert written and all(path.is_relative_to(workspace.root) for path in written)

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr(Index, "prepare", refuse)
    with pytest.raises(UserError) as caught:
        import_source(workspace, str(folder), "other")
    assert "could not be written" in caught.value.what and "readonly" in caught.value.why


@pytest.mark.parametrize("name", ["set.7z", "notes.docx"])
def test_a_file_that_cannot_be_imported_raises_an_error_listing_what_can(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        import_source(workspace, str(tmp_path / name))
    assert name in caught.value.what and "folder" in caught.value.try_this
