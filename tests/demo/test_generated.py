from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.demo.blobs import DARK, LIGHT, luminance, make_blobs
from engine.demo.circles import circle_scene, make_circles, outline
from engine.demo.generated import load_scenes
from engine.demo.shapes import PALETTE, Scene, draw, shape_mask
from engine.errors import UserError
from tests.data.test_dataset import Workspace
from tests.data.test_scan import CancelAfter, Cancelled

MAKERS = (make_circles, make_blobs)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("make", MAKERS)
def test_a_generated_set_is_recognized_as_pairs(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "source", 12, size=64)
    report = scan_folder(tmp_path / "source")
    dataset = Dataset.create(Workspace(tmp_path), "demo", report)
    assert report.paired and len(report.samples) == 12 and not report.problems and report.captioned == 12
    assert dataset.condition is not None and dataset.condition.provided
    assert dataset.condition.type == {make_circles: "own", make_blobs: "light_dark"}[make]
    scenes = load_scenes(tmp_path / "source")
    for sample in dataset.samples():
        scene = scenes[sample.key]
        assert sample.caption == scene.caption and (sample.width, sample.height) == (64, 64)
        assert np.array_equal(np.asarray(Image.open(sample.image)), draw(scene, 64))


@pytest.mark.parametrize("make", MAKERS)
def test_generating_again_changes_nothing_and_a_larger_count_adds_images(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path, 5, size=32)
    before = contents(tmp_path)
    dates = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    make(tmp_path, 5, size=32)
    assert contents(tmp_path) == before and all(p.stat().st_mtime_ns == date for p, date in dates.items())
    make(tmp_path, 8, size=32)
    after = contents(tmp_path)
    assert all(after[key] == value for key, value in before.items() if key.endswith(".png")) and len(after) == 19


def test_a_stopped_generation_continues_to_the_same_result(tmp_path: Path) -> None:
    progress: list[tuple[int, int, str]] = []
    with pytest.raises(Cancelled):
        make_circles(tmp_path / "a", 10, size=32, token=CancelAfter(4))
    make_circles(tmp_path / "a", 10, size=32, progress=lambda *p: progress.append(p))
    make_circles(tmp_path / "b", 10, size=32)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and progress[-1][:2] == (10, 10)


def test_another_seed_replaces_the_dataset_but_no_other_files(tmp_path: Path) -> None:
    make_circles(tmp_path / "a", 4, size=32, seed=1)
    make_circles(tmp_path / "a", 4, size=32, seed=2)
    make_circles(tmp_path / "b", 4, size=32, seed=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"x")
    with pytest.raises(UserError, match="other files"):
        make_circles(tmp_path / "mine", 4)
    assert contents(tmp_path / "mine") == {"photo.png": b"x"}


def test_circles_have_the_documented_sizes() -> None:
    scenes = [circle_scene(np.random.default_rng([0, n])) for n in range(2000)]
    radii = np.array([s.radius for s in scenes]) * 512
    centres = np.array([s.centre for s in scenes]) * 512
    assert radii.min() >= 64 and radii.max() <= 256 and abs(radii.mean() - 160) < 5
    assert centres.min() >= 96 and centres.max() <= 416 and np.all(np.abs(centres.mean(0) - 256) < 8)
    assert scenes[0].caption == f"{scenes[0].foreground} circle with {scenes[0].background} background"


@pytest.mark.parametrize(("size", "width"), [(64, 1), (128, 2), (256, 3), (512, 5)])
def test_the_outline_is_sharp_has_the_right_width_and_lies_on_the_discs_edge(size: int, width: int) -> None:
    scene = Scene("circle", "red", "blue", (0.45, 0.55), 0.3)
    white = outline(scene, size)[..., 0]
    assert set(np.unique(white)) == {0, 255}
    row = white[int(0.55 * size)] > 0
    assert abs(row.sum() - 2 * width) <= 1
    disc = shape_mask("circle", scene.centre, scene.radius, size)
    inner, outer = (shape_mask("circle", scene.centre, scene.radius + d / size, size) for d in (-width, width))
    assert not (white > 0)[inner].any() and not (white > 0)[~outer].any() and disc.any()
    cut = outline(Scene("circle", "red", "blue", (0.2, 0.2), 0.4), size)
    assert cut[-1].max() == 0 and cut[0].max() == 255  # ends at the border


def test_blobs_have_a_wide_gap_of_luminance_and_exact_maps(tmp_path: Path) -> None:
    assert len(LIGHT) >= 6 and len(DARK) >= 6
    assert min(map(luminance, LIGHT)) - max(map(luminance, DARK)) > 60 and set(LIGHT + DARK) <= set(PALETTE)
    make_blobs(tmp_path, 10, size=64, seed=3)
    lighter = []
    for key, scene in load_scenes(tmp_path).items():
        mask = shape_mask(scene.shape, scene.centre, scene.radius, 64, scene.seed)
        levels = np.asarray(Image.open(tmp_path / key.replace("images", "conditions")))[..., 0]
        lighter.append(scene.foreground in LIGHT)
        assert np.array_equal(levels == 255, mask if lighter[-1] else ~mask)
    assert len(set(lighter)) == 2
