from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data import training_view
from engine.data.dataset import Dataset
from engine.data.doctor import fix
from engine.data.doctor.catalogue import ALL, BY_NAME
from engine.data.doctor.check import check
from engine.data.doctor.check_store import CheckStore
from engine.data.make_maps import make_all
from engine.data.scan import scan_folder
from engine.disk.images import digest, load_rgb
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace
from tests.data.doctor import planted


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> planted.Planted:
    return planted.plant_pairs(tmp_path_factory.mktemp("pairs") / "set", "canny")


@pytest.fixture(scope="module")
def checked(faulty: planted.Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = Dataset.create(Workspace(tmp_path_factory.mktemp("w")), "pairs", scan_folder(faulty.folder))
    check(dataset, 200, workers=1)
    return dataset.folder


@pytest.fixture
def dataset(checked: Path, workspace: Workspace) -> Dataset:
    """A checked dataset, copied for each test."""
    return Dataset.open(shutil.copytree(checked, workspace.dataset_folder("pairs")))


def files_of(folder: Path) -> dict[str, str]:
    return {path.as_posix(): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_check_reads_only_what_changed(workspace: Workspace, tmp_path: Path) -> None:
    for number, photo in zip(range(4), planted.photographs(), strict=False):
        planted.write(tmp_path / "set" / f"{number}.png", photo)
    dataset = Dataset.create(workspace, "set", scan_folder(tmp_path / "set"))
    assert check(dataset, 256).measured == 4
    assert check(dataset, 512).measured == 0 and CheckStore(dataset.folder).counts()["too_small"] == 4
    Image.new("RGB", (256, 256), (9, 9, 9)).save(tmp_path / "set" / "2.png")
    again = check(dataset, 256)
    assert (again.measured, again.counts["constant"]) == (1, 1)


def test_a_cancelled_check_continues_where_it_stopped(workspace: Workspace, tmp_path: Path) -> None:
    for number, photo in zip(range(8), planted.photographs(), strict=False):
        planted.write(tmp_path / "set" / f"{number}.png", photo)
    dataset = Dataset.create(workspace, "set", scan_folder(tmp_path / "set"))
    control = Control()
    with pytest.raises(Cancelled):
        check(dataset, token=control.token, workers=1, progress=lambda done, *_: control.cancel() if done > 6 else None)
    left = check(dataset).measured
    assert 0 < left < 8
    assert CheckStore(dataset.folder).about()["pictures"] == "8"


def test_images_that_broke_after_the_scan_are_found(workspace: Workspace, tmp_path: Path) -> None:
    path = planted.write(tmp_path / "set" / "a.png", next(planted.photographs()))
    dataset = Dataset.create(workspace, "set", scan_folder(tmp_path / "set"))
    path.write_bytes(path.read_bytes()[:5000])
    assert check(dataset).counts["truncated"] == 1


@pytest.mark.parametrize("name", ["map_inverted", "map_turned", "map_shifted", "map_lossy"])
def test_a_corrected_map_is_used_and_the_users_files_stay_unchanged(
    name: str, dataset: Dataset, faulty: planted.Planted
) -> None:
    before, scanned = files_of(faulty.folder), dataset.fingerprint
    assert fix.correct(dataset, BY_NAME[name]) == 3
    assert files_of(faulty.folder) == before and dataset.fingerprint != scanned
    copies = [dataset.condition_path(dataset.sample(key)) for key in sorted(faulty.expected[name])]
    assert all(copy.is_relative_to(dataset.folder / "corrected") for copy in copies)
    extract = planted.PAIR_TYPES["canny"][0]()
    for key, copy in zip(sorted(faulty.expected[name]), copies, strict=True):
        right = extract(np.asarray(load_rgb(dataset.sample(key).image)))[16:-16, 16:-16] > 127
        got = np.asarray(load_rgb(copy))[16:-16, 16:-16] > 127
        assert (right == got).mean() > (0.97 if name == "map_lossy" else 0.999)
    again = check(dataset, 200, workers=1)
    assert (again.measured, again.counts.get(name, 0)) == (3, 0)
    assert next(state for state in fix.states(dataset) if state.finding.name == name).corrected == 3
    assert fix.undo(dataset, BY_NAME[name]) == 3
    assert dataset.fingerprint == scanned and check(dataset, 200, workers=1).counts[name] == 3


def test_maps_of_few_grey_levels_are_found_and_stretched(workspace: Workspace, tmp_path: Path) -> None:
    photos, folder = planted.photographs(), tmp_path / "set"
    ramp = np.tile(np.linspace(0, 31, planted.SIDE), (planted.SIDE, 1)).astype(np.uint8)
    for name, map in (("dark", ramp), ("whole", ramp * 8), ("labels", ramp * 4 + 30)):
        planted.write(folder / "images" / f"{name}.png", next(photos))
        planted.write(folder / "conditions" / f"{name}.png", map)
    dataset = Dataset.create(workspace, "set", scan_folder(folder))
    check(dataset)
    assert [hit.key for hit in CheckStore(dataset.folder).hits("map_dark")] == ["images/dark.png"]
    assert fix.correct(dataset, BY_NAME["map_dark"]) == 1
    copy = np.asarray(load_rgb(dataset.condition_path(dataset.sample("images/dark.png"))))
    assert copy.max() == 255 and len(np.unique(copy)) == 32


def test_an_excluded_sample_is_not_trained_on_and_can_be_restored(dataset: Dataset, faulty: planted.Planted) -> None:
    finding, keys, total = BY_NAME["map_blank"], faulty.expected["map_blank"], dataset.count()
    scanned = dataset.fingerprint
    assert fix.exclude(dataset, finding) == 3
    for seen in (dataset, Dataset.open(dataset.folder)):
        split = seen.held_out(4)
        listed = {sample.key for sample in seen.samples()}
        assert not keys & listed and not keys & {s.key for s in (*split.train, *split.held_out)}
        assert (seen.count(), seen.count(ready=True)) == (total - 3, total - 3)
        assert sum(len(seen.page(number, 7).samples) for number in range(seen.page(0, 7).pages)) == total - 3
        assert seen.fingerprint != scanned
    (state,) = (state for state in fix.states(dataset) if state.finding is finding)
    assert (state.open, state.excluded) == (0, 3)
    assert fix.undo(dataset, finding) == 3
    assert dataset.count() == total and dataset.fingerprint == scanned
    with pytest.raises(UserError, match="not used anyway"):
        fix.exclude(dataset, BY_NAME["map_orphaned"])
    with pytest.raises(UserError, match="cannot be corrected"):
        fix.correct(dataset, finding)


def test_a_second_correction_needs_a_new_check_first(dataset: Dataset, faulty: planted.Planted) -> None:
    key = next(iter(faulty.expected["map_shifted"]))
    assert fix.correct(dataset, BY_NAME["map_shifted"]) == 3
    copy = dataset.sample(key).condition_digest
    dataset.decisions.undo("nothing")
    store = CheckStore(dataset.folder)
    store.replace_hits([type(store.hits("map_shifted")[0])("map_inverted", key)], {})
    assert fix.correct(dataset, BY_NAME["map_inverted"]) == 0
    assert dataset.sample(key).condition_digest == copy


def test_corrected_images_and_captions(workspace: Workspace, tmp_path: Path) -> None:
    photo = next(planted.photographs())
    exif = Image.Exif()
    exif[0x0112] = 6
    planted.write(tmp_path / "set" / "a.jpg", photo[:200], exif=exif)
    planted.write(tmp_path / "set" / "b.png", photo)
    (tmp_path / "set" / "b.txt").write_text("a <b>cafÃ©</b>", encoding="utf-8")
    dataset = Dataset.create(workspace, "set", scan_folder(tmp_path / "set"))
    make_all(dataset, "canny", workers=1)
    check(dataset, 200)
    assert fix.correct(dataset, BY_NAME["exif_rotation"]) == 1
    turned = dataset.sample("a.jpg")
    with Image.open(turned.image) as copy:
        assert copy.size == (200, 256) and copy.getexif().get(0x0112, 1) == 1
    assert np.array_equal(load_rgb(turned.image), load_rgb(tmp_path / "set" / "a.jpg"))
    assert dataset.count(ready=True) == 2 and make_all(dataset, "canny", workers=1).kept == 2
    assert fix.correct(dataset, BY_NAME["caption_encoding"]) == 1
    assert dataset.sample("b.png").caption == "a café"
    assert (tmp_path / "set" / "b.txt").read_text("utf-8") == "a <b>cafÃ©</b>"
    with pytest.raises(UserError, match="Make all maps again"):
        fix.correct(dataset, BY_NAME["map_shifted"])


def test_the_training_view_equals_what_training_reads(dataset: Dataset) -> None:
    from engine.data.cache import cropped_image, cropped_map
    from engine.data.crop_plan import CropPlan

    sample = dataset.sample("images/clean03.png")
    plan = CropPlan(128, "smart")
    crop = plan.crop(sample)
    image, map = training_view.view(dataset, sample, plan)
    assert np.array_equal(image, cropped_image(sample, crop))
    assert map is not None and np.array_equal(map, cropped_map(dataset.condition_path(sample), crop, False))
    laid = np.asarray(training_view.overlay(image, map)).astype(int)
    lines = np.asarray(map)[..., 0] > 200
    red = laid[..., 0] - laid[..., 1]
    assert red[lines].mean() > 150 and red[lines].mean() > red[~lines].mean() + 20
    assert training_view.strip(dataset, sample, plan, 64).size == (3 * 72 - 8, 64)


def test_two_threads_can_store_decisions_at_once(dataset: Dataset) -> None:
    keys = [sample.key for sample in dataset.samples(0, 20)]
    threads = [threading.Thread(target=dataset.decisions.exclude, args=([key], "x")) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(dataset.decisions.current.excluded) == set(keys)


def test_every_finding_has_a_reason_and_an_advice() -> None:
    for finding in ALL:
        for text in (finding.title, finding.why, finding.what_to_do):
            assert text[0].isupper() and len(text) < 260, finding.name
        assert finding.why.endswith(".") and not (finding.unusable and finding.correct)


def test_among_equal_files_the_one_with_a_caption_is_kept(workspace: Workspace, tmp_path: Path) -> None:
    photo = next(planted.photographs())
    for name in ("a copy", "b first"):
        planted.write(tmp_path / "set" / f"{name}.png", photo)
    (tmp_path / "set" / "b first.txt").write_text("an astronaut", encoding="utf-8")
    dataset = Dataset.create(workspace, "set", scan_folder(tmp_path / "set"))
    check(dataset, 256)
    assert [hit.key for hit in CheckStore(dataset.folder).hits("copy")] == ["a copy.png"]
