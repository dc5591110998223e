"""Images that hold an image and its map side by side (pix2pix): recognized, asked about, cut in two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.before_import import first_pairs, question
from engine.data.dataset import Dataset
from engine.data.import_config import ImportConfig
from engine.data.importing import import_source
from engine.data.layouts import recognize
from engine.data.layouts.halves import LEFT, RIGHT
from engine.errors import UserError
from engine.workspace.paths import Workspace

PHOTO = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
MAP = np.zeros((64, 64, 3), np.uint8)
MAP[10:14] = 255


def side_by_side(folder: Path, left: np.ndarray, right: np.ndarray, ending: str = "png") -> Path:
    for n in range(3):
        path = folder / "train" / f"{n}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate([left, right], axis=1)).save(path, quality=95)
        path.with_suffix(".txt").write_text(f"c{n}", encoding="utf-8")
    return folder


@pytest.mark.parametrize(("left", "right"), [(PHOTO, MAP), (MAP, PHOTO)])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_the_half_that_looks_like_a_map_is_the_map(
    workspace: Workspace, tmp_path: Path, left: np.ndarray, right: np.ndarray, ending: str
) -> None:
    folder = side_by_side(tmp_path / "facades", left, right, ending)
    asked = question(str(folder))
    assert asked is not None and "looks like a condition map" in asked.doubts[0]
    assert first_pairs(str(folder), {}, 3)[0].halves == (("image", "map") if right is MAP else ("map", "image"))
    made = import_source(workspace, str(folder))
    assert (made.pictures, made.captioned, made.paired, made.new) == (3, 3, True, 3) and made.doubts
    assert {part.name for part in made.parts} == {LEFT, RIGHT}, "the options that would say it are printed"
    assert any("Of 6 files in the folder, 3 images and 3 caption files were used" in note for note in made.notes)
    for sample in Dataset.open(made.folder).samples(0, 9):
        assert sample.condition is not None and (sample.width, sample.height) == (64, 64)
        image, map = (np.asarray(Image.open(path).convert("RGB"), float) for path in (sample.image, sample.condition))
        assert np.abs(map - MAP).mean() < 8 < np.abs(image - MAP).mean()
    again = import_source(workspace, str(folder))
    assert (again.pictures, again.new, again.present) == (3, 0, 3)


def test_the_user_says_which_half_is_which_and_it_is_kept(workspace: Workspace, tmp_path: Path) -> None:
    folder = side_by_side(tmp_path / "night", PHOTO, OTHER)  # two photographs: the contents do not tell
    asked = question(str(folder))
    assert asked is not None and "otherwise they are read whole" in asked.doubts[0]
    assert not first_pairs(str(folder), {}, 1)[0].halves
    roles = f"{LEFT}=map, {RIGHT}=image"
    made = import_source(workspace, str(folder), config=ImportConfig(roles=roles))
    dataset = Dataset.open(import_source(workspace, str(folder)).folder)
    assert made.paired and not made.doubts and dataset.roles == {LEFT: "map", RIGHT: "image"}
    sample = dataset.samples(0, 1)[0]
    assert sample.condition is not None and np.array_equal(np.asarray(Image.open(sample.condition)), PHOTO)
    neither = import_source(workspace, str(folder), "whole", ImportConfig(roles=f"{LEFT}=image, {RIGHT}=image"))
    assert not neither.paired and Dataset.open(neither.folder).samples(0, 1)[0].width == 128
    alone = import_source(workspace, str(folder), "alone", ImportConfig(roles=f"{LEFT}=image, {RIGHT}=ignored"))
    assert not alone.paired and Dataset.open(alone.folder).samples(0, 1)[0].width == 64


def test_other_wide_images_are_not_asked_about(tmp_path: Path) -> None:
    side_by_side(tmp_path / "same", PHOTO, PHOTO)
    assert recognize(tmp_path / "same")[2].doubts == []
    side_by_side(tmp_path / "mixed", PHOTO, MAP)
    Image.fromarray(PHOTO).save(tmp_path / "mixed" / "train" / "square.png")
    assert not any("wide" in doubt for doubt in recognize(tmp_path / "mixed")[2].doubts)


def test_a_file_of_another_shape_is_left_out_and_told(workspace: Workspace, tmp_path: Path) -> None:
    folder = side_by_side(tmp_path / "set", PHOTO, MAP)
    Image.fromarray(PHOTO).save(folder / "train" / "square.png")
    (folder / "train" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "notes.pdf").write_bytes(b"x")
    made = import_source(workspace, str(folder), config=ImportConfig(roles=f"{LEFT}=image, {RIGHT}=map"))
    said = " ".join(made.notes)
    assert made.pictures == 3 and "not twice as wide as high (train/square.png)" in said
    assert "train/broken.png" in said and "Of 9 files in the folder" in said and "notes.pdf" in said


def test_what_was_read_whole_by_an_earlier_version_stays_whole(workspace: Workspace, tmp_path: Path) -> None:
    folder = side_by_side(tmp_path / "set", PHOTO, MAP)
    import_source(workspace, str(folder), config=ImportConfig(roles=f"{LEFT}=image, {RIGHT}=image"))
    description = workspace.dataset_folder("set") / "dataset.json"
    text = description.read_text(encoding="utf-8")
    description.write_text(text.replace('"roles": {', '"roles_": {'), encoding="utf-8")
    made = import_source(workspace, str(folder))
    assert not made.paired and made.pictures == 3


def test_cutting_what_was_read_whole_asks_for_another_name(workspace: Workspace, tmp_path: Path) -> None:
    folder = side_by_side(tmp_path / "set", PHOTO, MAP)
    import_source(workspace, str(folder), config=ImportConfig(roles=f"{LEFT}=image, {RIGHT}=image"))
    cut = ImportConfig(roles=f"{LEFT}=image, {RIGHT}=map")
    with pytest.raises(UserError, match="set contains these images uncut"):
        import_source(workspace, str(folder), config=cut)
    assert import_source(workspace, str(folder), "cut", cut).paired
