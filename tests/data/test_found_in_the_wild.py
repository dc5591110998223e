"""Folders as people have them: pairs and captions are found whatever their names, and every file is accounted for."""

from __future__ import annotations

import json
import os
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.import_config import ImportConfig, parse_import
from engine.data.importing import import_source
from engine.data.layouts import folders, recognize
from engine.data.layouts.inventory import is_hidden
from engine.data.scan import ScanReport, scan_folder
from engine.errors import UserError
from engine.workspace.paths import Workspace

PHOTO = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
MAP = np.zeros((48, 48), np.uint8)
MAP[10:14] = 255
Build = Callable[[Path], None]


def photo(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PHOTO).save(path)


def drawn(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(MAP).save(path)


def write(path: Path, content: object, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode(encoding))


def rows(path: Path, *content: object) -> None:
    write(path, "\n".join(map(json.dumps, content)))


def adds_up(report: ScanReport) -> bool:
    """Whether the file usage has each file of the folder exactly once."""
    usage = report.file_usage
    assert usage is not None
    files = [path for path in report.source.rglob("*") if path.is_file() and not is_hidden(path.name)]
    used = usage.images + usage.maps + usage.captions + usage.lists
    return usage.files == len(files) == used + sum(one.count for one in usage.left_out)


def pairs(report: ScanReport) -> dict[str, tuple[str, str]]:
    """File name of the image -> caption and file name of the map."""
    return {s.image.name: (s.caption, s.condition.name if s.condition else "") for s in report.samples}


def diffusers_tree(root: Path) -> None:
    for n in "12":
        photo(root / "train" / "images" / f"{n}.png")
        drawn(root / "train" / "conditioning_images" / f"{n}.png")
    rows(root / "train" / "metadata.jsonl", *(
        {"file_name": f"images/{n}.png", "conditioning_image": f"conditioning_images/{n}.png", "text": f"c{n}"}
        for n in "12"
    ))  # fmt: skip


def two_folders(images: str, maps: str, captions: str = "") -> Build:
    def build(root: Path) -> None:
        for n in "12":
            photo(root / images / f"{n}.png")
            drawn(root / maps / f"{n}.png")
            write(root / (captions or images) / f"{n}.txt", f"c{n}")

    return build


def listed(name: str, image: str, map: str, caption: str = "text") -> Build:
    def build(root: Path) -> None:
        for n in "12":
            photo(root / "images" / f"{n}.png")
            drawn(root / "conditioning_images" / f"{n}.png")
        rows(root / name, *(
            {image: f"images/{n}.png", map: f"conditioning_images/{n}.png", caption: f"c{n} of a cat"} for n in "12"
        ))  # fmt: skip

    return build


def splits(root: Path) -> None:
    for split, names in (("train", "12"), ("validation", "34")):
        for n in names:
            photo(root / split / "image" / f"{n}.png")
            drawn(root / split / "canny" / f"{n}.png")
            write(root / split / "image" / f"{n}.txt", f"c{n}")


def scenes(root: Path) -> None:
    for scene, n in (("kitchen", "1"), ("bath", "2")):
        photo(root / scene / "rgb" / f"{n}.png")
        drawn(root / scene / "depth" / f"{n}.png")
        write(root / scene / "rgb" / f"{n}.txt", f"c{n}")


def side_by_side(map_end: str, other_end: str = "") -> Build:
    def build(root: Path) -> None:
        for n in "12":
            photo(root / f"{n}.png")
            drawn(root / f"{n}{map_end}.png")
            if other_end:
                drawn(root / f"{n}{other_end}.png")
            write(root / f"{n}.txt", f"c{n}")

    return build


def suffix_in_the_other_folder(root: Path) -> None:
    for n in "12":
        photo(root / "images" / f"{n}.png")
        drawn(root / "conditioning_images" / f"{n}_canny.png")
        write(root / "images" / f"{n}.txt", f"c{n}")


def lists_without_maps(root: Path) -> None:
    for n in "12":
        photo(root / "image" / f"{n}.png")
        drawn(root / "mask" / f"{n}.png")
    rows(root / "image" / "metadata.jsonl", *({"file_name": f"{n}.png", "text": f"c{n}"} for n in "12"))


def other_forms_of_letters(root: Path) -> None:
    names = {"café": "c1", "zürich": "c2"}
    for name in names:
        photo(root / "images" / (unicodedata.normalize("NFD", name) + ".png"))
        drawn(root / "conditioning_images" / (unicodedata.normalize("NFC", name) + ".png"))
        write(root / "images" / (unicodedata.normalize("NFC", name) + ".txt"), names[name])


def pairs_named(map: str, image: str, other: str = "") -> Build:
    """Pairs by patterns of their paths, and images that are kept for tests."""

    def build(root: Path) -> None:
        for n in "12":
            photo(root / f"{image.format(n=n)}.png")
            drawn(root / f"{map.format(n=n)}.png")
            write(root / f"{image.format(n=n)}.txt", f"c{n}")
            if other:
                photo(root / f"{other.format(n=f'x{n}')}.png")

    return build


@pytest.mark.parametrize(
    "build",
    [
        diffusers_tree,
        two_folders("image", "mask"),
        two_folders("image", "canny"),
        two_folders("image", "depth"),
        two_folders("image", "cond"),
        two_folders("Images", "Condition_Images"),
        two_folders("target_image_dir", "condition_image_dir", "captions"),
        two_folders("x-data", "x-conditioning"),
        two_folders("edited_image", "original_image"),
        two_folders("output", "input"),
        two_folders("photos", "openpose", "prompts"),
        two_folders("blorb", "fnord"),  # only their contents tell
        listed("metadata.jsonl", "file_name", "control_image"),
        listed("metadata.jsonl", "file_name", "control_file_name"),
        listed("metadata.jsonl", "file_name", "condition"),
        listed("metadata.jsonl", "file_name", "mask"),
        listed("metadata.jsonl", "file_name", "conditioning_image", "additional_feature"),
        listed("train.jsonl", "image_path", "control_path", "caption"),
        listed("data.json", "image", "conditioning_image"),
        listed("dataset.jsonl", "target_img", "pose_img", "blip_caption"),
        splits,
        scenes,
        side_by_side("-condlabel", "-masklabel"),
        side_by_side("_canny"),
        side_by_side("_depth_map"),
        suffix_in_the_other_folder,
        lists_without_maps,
        other_forms_of_letters,
        pairs_named("canny_{n}", "{n}"),
        pairs_named("depth_{n}", "img_{n}"),
        pairs_named("{n}_depth", "{n}_rgb"),
        pairs_named("{n}_openpose_full", "{n}"),
        pairs_named("canny_0000{n}_", "photo_0000{n}_"),
        pairs_named("depth/depth_{n}", "images/img_{n}"),
        pairs_named("masks/{n}_mask", "images/{n}_image"),
        pairs_named("canny/{n}.jpg", "images/{n}"),
        pairs_named("conditions/canny/{n}", "images/{n}"),
        pairs_named("s{n}/depth", "s{n}/image"),
        pairs_named("xyz/{n}", "{n}"),
        pairs_named("a/b/c/d/e/depth/{n}", "a/b/c/d/e/images/{n}"),
        pairs_named("trainB/{n}", "trainA/{n}", "testA/{n}"),
        pairs_named("train_masks/{n}", "train_images/{n}", "test_images/{n}"),
        pairs_named("masks/train/{n}", "images/train/{n}"),
        pairs_named("output/{n}", "input/{n}"),  # the reverse of the usual; what they hold tells
        pairs_named("target/{n}", "source/{n}"),
    ],
)
def test_pairs_are_found_and_no_map_is_taken_for_an_image(tmp_path: Path, build: Build) -> None:
    build(tmp_path)
    report = scan_folder(tmp_path)
    assert len(report.samples) == 2 and report.paired and not report.problems
    assert [sample.caption[:2] for sample in report.samples] in (["c1", "c2"], ["c2", "c1"])
    for sample in report.samples:
        assert sample.condition is not None and np.asarray(Image.open(sample.condition)).ndim == 2
        assert np.asarray(Image.open(sample.image)).ndim == 3
    assert adds_up(report)


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    splits(tmp_path)
    report = scan_folder(tmp_path)
    assert any("validation was left out" in doubt for doubt in report.doubts)
    assert report.file_usage is not None
    said = " ".join(report.file_usage.sentences())
    assert "kept for validation" in said and "validation/image/3.png" in said
    both = scan_folder(tmp_path, asked={"validation": "image"})
    assert len(both.samples) == 4 and adds_up(both)


@pytest.mark.parametrize(
    "build",
    [
        lambda root: [write(root / "captions" / f"{n}.txt", f"c{n}") for n in "12"],
        lambda root: [write(root / f"{n}.json", {"caption": f"c{n}", "score": 3}) for n in "12"],
        lambda root: [write(root / f"{n}.png.txt", f"c{n}") for n in "12"],
        lambda root: [write(root / f"{n}..txt", f"c{n}") for n in "12"],
        lambda root: [write(root / f"{n}.caption", f"c{n}") for n in "12"],
        lambda root: write(root / "captions.json", {"1.png": "c1", "2.png": "c2"}),
        lambda root: write(root / "meta_cap.json", {n: {"caption": f"c{n}"} for n in "12"}),
        lambda root: write(root / "metadata.json", {f"/content/data/{n}.png": {"tags": f"c{n}"} for n in "12"}),
        lambda root: write(root / "metadata.json", [{"file_name": f"{n}.png", "text": f"c{n}"} for n in "12"]),
        lambda root: write(root / "metadata.json1", "\n".join(
            json.dumps({"file_name": f"{n}.png", "text": f"c{n}"}) for n in "12")),
        lambda root: write(root / "captions.txt", "1.png: c1\n2.png: c2"),
        lambda root: write(root / "captions.txt", "1.png\tc1\r\n2.png\tc2\r\n"),
        lambda root: write(root / "captions.csv", "image;caption\n1.png;c1\n2.png;c2"),
        lambda root: write(root / "list.tsv", "filename\tdescription\n1.png\tc1\n2.png\tc2"),
        lambda root: [write(root / f"{n}.txt", f"c{n}", "utf-16") for n in "12"],
        lambda root: write(root / "metadata.jsonl", "\n".join(
            json.dumps({"file_name": f"{n}.png", "text": f"c{n}"}) for n in "12"), "utf-16"),
        lambda root: write(root / "metadata.csv", "file_name,text\r\n1.png,c1\r\n2.png,c2\r\n", "utf-16"),
        lambda root: write(root / "metadata.jsonl", "\n".join(
            json.dumps({"file_name": f"{n}.png", "text": f"c{n}"}, indent=2) for n in "12")),
        lambda root: write(root / "metadata.jsonl", "".join(
            json.dumps({"file_name": f"{n}.png", "text": f"c{n}"}) for n in "12")),
        lambda root: write(root / "metadata.jsonl", "".join(
            json.dumps({"file_name": f"{n}.png", "text": f"c{n}"}) + ",\n" for n in "12")),
        lambda root: write(root / "metadata.jsonl", "\n".join(
            str({"file_name": f"{n}.png", "text": f"c{n}"}) for n in "12")),
        lambda root: write(root / "metadata.jsonl", "\n".join(
            f'{{"file_name": "C:\\data\\{n}.png", "text": "c{n}"}}' for n in "12")),
        lambda root: write(root / "metadata.jsonl", json.dumps(
            {"data": [{"file_name": f"{n}.png", "text": f"c{n}"} for n in "12"]})),
        lambda root: write(root / "metadata.csv", 'file_name , text\n"1.png" , "c1"\n"2.png" , "c2"'),
        lambda root: write(root / "metadata.csv", "file_name,text\n1.png,c1\n2.png,c2", "utf-16-le"),  # no mark
        lambda root: write(root / "captions.csv", '1.png,"c1"\n2.png,"c2"'),  # without a line of names
        lambda root: write(root / "data.csv", "sep=;\nimage;caption\n1.png;c1\n2.png;c2"),
        lambda root: write(root / "styles.csv", "id,title\n1,c1\n2,c2"),
        lambda root: write(root / "data.json", {"version": 1, "records": [
            {"img": f"{n}.png", "title": f"c{n}", "text": f"c{n}"} for n in "12"]}),
        lambda root: write(root / "data.json", {f"k{n}": {"image": f"{n}.png", "caption": f"c{n}"} for n in "12"}),
        lambda root: write(root / "annotations" / "captions_train.json", {
            "images": [{"id": int(n), "file_name": f"{n}.png"} for n in "12"],
            "annotations": [{"image_id": int(n), "caption": f"c{n}"} for n in "12"]}),
        lambda root: write(root / "llava.json", [{"image": f"{n}.png", "conversations": [
            {"from": "human", "value": "What is it?"}, {"from": "gpt", "value": f"c{n}"}]} for n in "12"]),
        lambda root: rows(root / "x.jsonl", *(
            {"image": {"path": f"{n}.png", "bytes": None}, "text": {"en": f"c{n}", "de": "x"}} for n in "12")),
        lambda root: rows(root / "x.jsonl", *({"image": f"file:///a%20b/{n}.png", "caption": f"c{n}"} for n in "12")),
        lambda root: rows(root / "captions" / "all.jsonl", *({"image": f"{n}.png", "caption": f"c{n}"} for n in "12")),
        lambda root: [rows(root / f"part{n}.jsonl", {"image": f"{n}.png", "caption": f"c{n}"}) for n in "12"],
        lambda root: [write(root / f"{n}_caption.txt", f"c{n}") for n in "12"],
    ],
)  # fmt: skip
def test_captions_are_found_wherever_tools_put_them(tmp_path: Path, build: Build) -> None:
    photo(tmp_path / "1.png", tmp_path / "2.png")
    build(tmp_path)
    report = scan_folder(tmp_path)
    assert {name: caption for name, (caption, _) in pairs(report).items()} == {"1.png": "c1", "2.png": "c2"}
    assert not report.problems and adds_up(report)


def test_captions_beside_the_maps_count_too(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "1.png")
    drawn(tmp_path / "control" / "1.png")
    write(tmp_path / "control" / "1.txt", "c1")
    report = scan_folder(tmp_path)
    assert pairs(report) == {"1.png": ("c1", "1.png")} and adds_up(report)


def test_nothing_is_dropped_without_a_word(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    for name in ("a.heic", "b.jxl", "c.exr", "film.mp4", "old.zip", "lonely.txt", "notes.md", "x.json", "data.parquet"):
        write(tmp_path / name, "x")
    write(tmp_path / ".hidden", "x")
    report = scan_folder(tmp_path)
    assert report.file_usage is not None and adds_up(report) and report.file_usage.hidden == 1
    said = " ".join(report.file_usage.sentences())
    for words in ("HEIC", "JPEG XL", "OpenEXR", "video", "archives", "lonely.txt", "notes.md", "x.json"):
        assert words in said


def test_images_are_known_by_their_content(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    for name in ("no_ending", "photo.download", "2.jpg"):
        (tmp_path / name).write_bytes((tmp_path / "1.png").read_bytes())
    report = scan_folder(tmp_path)
    assert len(report.samples) == 4 and adds_up(report)


def test_one_image_with_two_maps_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    drawn(tmp_path / "maps" / "a.png", tmp_path / "maps" / "b.png")
    rows(tmp_path / "metadata.jsonl", *(
        {"file_name": "1.png", "conditioning_image": f"maps/{name}.png", "text": "x"} for name in "ab"
    ))  # fmt: skip
    report = scan_folder(tmp_path)
    assert pairs(report) == {"1.png": ("x", "b.png")} and adds_up(report)
    assert "twice, with different maps" in report.problems[0].what and "a.png" in report.problems[0].why


def test_several_captions_and_other_encodings_are_told(tmp_path: Path) -> None:
    photo(tmp_path / "1.png", tmp_path / "2.png")
    write(tmp_path / "1.txt", "un café près de la fenêtre", "cp1252")
    write(tmp_path / "2.txt", "one\ntwo")
    notes = " ".join(scan_folder(tmp_path).notes)
    assert "read as cp1252, for example 1.txt" in notes and "several lines" in notes
    rows(tmp_path / "metadata.jsonl", *({"file_name": f"{n}.png", "text": ["a", "b"]} for n in "12"))
    assert "2 rows of metadata.jsonl with several captions" in " ".join(scan_folder(tmp_path).notes)


def test_a_broken_list_is_named_once_and_the_folders_decide(tmp_path: Path) -> None:
    two_folders("images", "conditioning_images")(tmp_path)
    write(tmp_path / "metadata.jsonl", "{'file_name': oops\n" * 30)
    report = scan_folder(tmp_path)
    assert len(report.samples) == 2 and report.paired
    assert [problem.what for problem in report.problems] == ["metadata.jsonl was not used."]


def test_folders_of_the_same_names_are_asked_about(tmp_path: Path) -> None:
    for n in "12":
        photo(tmp_path / "cats" / f"{n}.png", tmp_path / "dogs" / f"{n}.png")
    report = scan_folder(tmp_path)
    assert len(report.samples) == 4 and "cats and dogs contain the same file names" in report.doubts[0]
    paired = scan_folder(tmp_path, asked={"cats": "image", "dogs": "map"})
    assert paired.paired and len(paired.samples) == 2 and adds_up(paired)
    alone = scan_folder(tmp_path, asked={"dogs": "ignored"})
    assert len(alone.samples) == 2 and not alone.paired and adds_up(alone)


def test_a_column_can_be_chosen(tmp_path: Path) -> None:
    for n in "12":
        photo(tmp_path / f"{n}.png")
        drawn(tmp_path / "a" / f"{n}.png", tmp_path / "b" / f"{n}.png")
    rows(tmp_path / "metadata.jsonl", *(
        {"file_name": f"{n}.png", "canny": f"a/{n}.png", "depth": f"b/{n}.png", "title": f"t{n}", "text": f"c{n}"}
        for n in "12"
    ))  # fmt: skip
    report = scan_folder(tmp_path)
    assert report.paired and "depth" in " ".join(report.doubts) and adds_up(report)
    chosen = scan_folder(tmp_path, asked={"depth": "map", "title": "caption"})
    assert pairs(chosen) == {"1.png": ("t1", "1.png"), "2.png": ("t2", "2.png")} and adds_up(chosen)
    assert {sample.condition.parent.name for sample in chosen.samples if sample.condition} == {"b"}


def test_names_that_are_captions_are_noticed(workspace: Workspace, tmp_path: Path) -> None:
    photo(*(tmp_path / "a" / f"a red fox in deep snow {n}.png" for n in "123"))
    photo(*(tmp_path / "b" / f"IMG_000{n}.png" for n in "123"))
    assert any("file names look like captions" in note for note in import_source(workspace, str(tmp_path / "a")).notes)
    assert not any("file names" in note for note in import_source(workspace, str(tmp_path / "b")).notes)


def test_maps_with_more_than_8_bits_are_told_with_the_rule_that_brings_them_to_8(
    workspace: Workspace, tmp_path: Path
) -> None:
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    maps = {
        "millimetres.png": (ramp * 8000).astype(np.uint16),
        "other.png": (ramp * 4000).astype(np.uint16),
        "whole.png": (ramp * 65_535).astype(np.uint16),
        "labels.png": (ramp * 60).astype(np.uint16),
        "large.tif": (ramp * 1_000_000).astype(np.int32),
        "metres.tif": (ramp * 9.5).astype(np.float32),
        "share.tif": ramp.astype(np.float32),
        "plain.png": (ramp * 255).astype(np.uint8),
    }
    (tmp_path / "set" / "depth").mkdir(parents=True)
    for name, values in maps.items():
        photo(tmp_path / "set" / "images" / Path(name).with_suffix(".png"))
        Image.fromarray(values).save(tmp_path / "set" / "depth" / name)
    largest = "each stretched so that its largest value becomes 255"
    for result in (import_source(workspace, str(tmp_path / "set")), import_source(workspace, str(tmp_path / "set"))):
        assert result.paired and "7 condition maps have more than 8 bits" in " ".join(result.file_usage)
        for line in (
            f"2 in 16 bits, {largest}: depth/millimetres.png, depth/other.png.",
            "1 in 16 bits, divided by 257 (65,535 becomes 255): depth/whole.png.",
            "1 in 16 bits, values up to 255, which stay as they are: depth/labels.png.",
            f"1 in 32 bits, {largest}: depth/large.tif.",
            f"1 of floats, {largest}: depth/metres.tif.",
            "1 of floats, multiplied by 255 since they are at most 1: depth/share.tif.",
        ):
            assert line in result.file_usage, result.file_usage
    usage = Dataset.open(result.folder).file_usage
    assert usage is not None and sum(one.count for one in usage.deep_maps) == 7, "kept in dataset.json"


def test_colours_with_more_than_8_bits_are_told_for_images_and_for_maps(workspace: Workspace, tmp_path: Path) -> None:
    ramp = np.round(np.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3) * 8000).astype(np.uint16)
    for folder, name in (("images", "a.png"), ("images", "b.tif"), ("depth", "a.png"), ("depth", "b.tif")):
        (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(tmp_path / "set" / folder / name), ramp)
    for roles in ("images=image, depth=map", "images=image, depth=image", "images=image, depth=map"):
        result = import_source(workspace, str(tmp_path / "set"), "set", ImportConfig(roles=roles))
        images = 4 if "depth=image" in roles else 2
        assert f"{images} images have more than 8 bits and will be read as 8 bits (0 to 255):" in result.file_usage
        assert any(
            line.startswith(f"{images} in 16 bits a channel, of which the upper 8") for line in result.file_usage
        )
        stretched = "2 in 16 bits a channel, each stretched so that its largest value becomes 255: depth/a.png, "
        told = any(line.startswith(stretched) for line in result.file_usage)
        assert told == (images == 2), "also where the role of a file that was read before is another one now"


def test_names_written_as_addresses_are_found(tmp_path: Path) -> None:
    photo(tmp_path / "my cat 1.png", tmp_path / "sub" / "größe.png", tmp_path / "100%20.png")
    named = {"my%20cat%201.png": "a cat", "sub/gr%C3%B6%C3%9Fe.png": "its size", "100%20.png": "a per cent sign"}
    rows(tmp_path / "metadata.jsonl", *({"file_name": name, "text": text} for name, text in named.items()))
    found = scan_folder(tmp_path)
    assert adds_up(found) and not found.problems
    assert pairs(found) == {
        "my cat 1.png": ("a cat", ""), "größe.png": ("its size", ""), "100%20.png": ("a per cent sign", ""),
    }  # fmt: skip


@pytest.mark.parametrize("content", [bytes(64), b"a cat\0\0\0", b"\0\0\0abc\0", bytes(1)])
def test_a_caption_file_of_zeros_is_told_and_is_no_caption(tmp_path: Path, content: bytes) -> None:
    photo(tmp_path / "1.png", tmp_path / "2.png")
    (tmp_path / "1.txt").write_bytes(content)
    write(tmp_path / "2.txt", "two cats")
    found = scan_folder(tmp_path)
    assert adds_up(found) and pairs(found) == {"1.png": ("", ""), "2.png": ("two cats", "")}
    (problem,) = found.problems
    assert problem.path.name == "1.txt" and "bytes that are not text" in problem.why
    assert not any("UTF-8" in note for note in found.notes)


def test_the_answer_and_the_account_are_kept(workspace: Workspace, tmp_path: Path) -> None:
    for n in "12":
        photo(tmp_path / "set" / "cats" / f"{n}.png", tmp_path / "set" / "dogs" / f"{n}.png")
    first = import_source(workspace, str(tmp_path / "set"))
    assert first.doubts and first.pictures == 4
    told = import_source(workspace, str(tmp_path / "set"), config=ImportConfig(roles="dogs=ignored"))
    again = import_source(workspace, str(tmp_path / "set"))
    assert (told.pictures, again.pictures) == (2, 2) and not again.doubts
    dataset = Dataset.open(again.folder)
    assert dataset.roles == {"dogs": "ignored"}
    assert dataset.file_usage is not None and dataset.file_usage.left_out[0].what == "images ignored, as you said"
    with pytest.raises(UserError, match="no horses in set"):
        import_source(workspace, str(tmp_path / "set"), config=ImportConfig(roles="horses=map"))
    with pytest.raises(UserError, match="NAME=ROLE"):
        parse_import({"roles": "dogs=pets"})


def test_maps_that_a_list_names_and_that_do_not_exist_are_not_accounted_for(tmp_path: Path) -> None:
    photo(tmp_path / "1.png", tmp_path / "2.png")
    drawn(tmp_path / "m" / "1.png")
    rows(tmp_path / "metadata.jsonl", *({"file_name": f"{n}.png", "condition": f"m/{n}.png"} for n in "12"))
    assert adds_up(scan_folder(tmp_path))


def test_text_after_an_unquoted_comma_stays(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    write(tmp_path / "metadata.csv", "file_name,text\n1.png,a cat, sitting, in the sun\n")
    assert pairs(scan_folder(tmp_path)) == {"1.png": ("a cat, sitting, in the sun", "")}


def test_labels_of_objects_are_no_captions(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "1.png", tmp_path / "images" / "2.png")
    write(tmp_path / "labels" / "1.txt", "0 0.5 0.5 0.25 1e-3\n17 0.1 .2 0.3 0.4\n")
    write(tmp_path / "labels" / "2.txt", "3 cats and 4 dogs 5 6 7")
    report = scan_folder(tmp_path)
    assert pairs(report)["1.png"][0] == "" and pairs(report)["2.png"][0].startswith("3 cats") and adds_up(report)
    assert report.file_usage is not None and "contain numbers" in report.file_usage.left_out[0].what


def test_lists_that_name_missing_or_linked_files(tmp_path: Path) -> None:
    photo(tmp_path / "set" / "3.png")
    (tmp_path / "blob").write_bytes((tmp_path / "set" / "3.png").read_bytes())
    (tmp_path / "set" / "1.png").symlink_to(tmp_path / "blob")  # as the cache of Hugging Face does
    rows(
        tmp_path / "set" / "metadata.jsonl", *({"file_name": f"{n}.png", "text": f"c{n}", "mood": "x"} for n in "1234")
    )
    report = scan_folder(tmp_path / "set")
    assert {name: text for name, (text, _) in pairs(report).items()} == {"1.png": "c1", "3.png": "c3"}
    assert len(report.problems) == 2 and adds_up(report)
    assert "Unused columns of metadata.jsonl: mood." in report.notes
    rows(tmp_path / "set" / "metadata.jsonl", *({"file_name": f"old{n}.png", "text": f"c{n}"} for n in "12"))
    report = scan_folder(tmp_path / "set")
    assert len(report.samples) == 2 and "old1.png" in report.problems[0].why and adds_up(report)


def test_lists_for_validation_are_left_out_and_told(tmp_path: Path) -> None:
    photo(*(tmp_path / "images" / f"{n}.png" for n in "123"))
    write(tmp_path / "train.csv", "image,caption\n1.png,c1\n2.png,c2")
    write(tmp_path / "test.csv", "image,caption\n3.png,c3")
    report = scan_folder(tmp_path)
    assert len(report.samples) == 2 and "test.csv (left out), train.csv (read)" in report.doubts[0] and adds_up(report)
    assert len(scan_folder(tmp_path, asked={"test.csv": "image"}).samples) == 3


def test_one_of_several_captions_is_taken_and_told(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "1.png")
    for kind in ("captions_long", "captions_short"):
        write(tmp_path / kind / "1.txt", kind)
    report = scan_folder(tmp_path)
    assert pairs(report)["1.png"][0] == "captions_long" and "captions_short" in report.doubts[0] and adds_up(report)
    for asked in ({"captions_short": "caption"}, {"captions_long": "ignored", "captions_short": "caption"}):
        assert pairs(scan_folder(tmp_path, asked=asked))["1.png"][0] == "captions_short"
        assert asked.keys() <= recognize(tmp_path, asked)[2].parts.keys()


def test_a_caption_is_never_that_of_another_image(tmp_path: Path) -> None:
    photo(*(tmp_path / kind / "1.png" for kind in ("cat", "dog")))
    write(tmp_path / "captions" / "1.txt", "of which?")
    write(tmp_path / "captions.json", {"1.png": "of which?"})
    assert [sample.caption for sample in scan_folder(tmp_path).samples] == ["", ""]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have names on POSIX systems only")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    for name in ("2.png", "1.txt", "metadata.csv", "pipe"):
        os.mkfifo(tmp_path / name)
    report = scan_folder(tmp_path)
    assert len(report.samples) == 1 and len(report.problems) == 4 and adds_up(report)


def seldom_with_masks(root: Path) -> None:
    photo(*(root / f"{n}.png" for n in "12345"))
    drawn(root / "1_mask.png", root / "2_mask.png")


def twice_the_name(root: Path) -> None:
    for n in "12":
        photo(root / f"{n}.webp")
        drawn(root / f"{n}.png")


def cityscapes(root: Path) -> None:
    for n in "12":
        photo(root / "leftImg8bit" / "train" / f"a_{n}_leftImg8bit.png")
        drawn(root / "gtFine" / "train" / f"a_{n}_gtFine_labelIds.png")


def other_names(root: Path) -> None:
    photo(*(root / "images" / f"{n}.png" for n in "12"))
    drawn(*(root / "depth" / f"000{n}.png" for n in "12"))


def masks_in_kohyas_folder(root: Path) -> None:
    for n in "12":
        photo(root / "10_cat" / f"{n}.png")
        drawn(root / "10_cat" / "mask" / f"{n}.png")


@pytest.mark.parametrize("build", [seldom_with_masks, twice_the_name, cityscapes, other_names, masks_in_kohyas_folder])
def test_where_names_do_not_tell_the_user_is_asked(tmp_path: Path, build: Build) -> None:
    build(tmp_path)
    report = scan_folder(tmp_path)
    assert report.doubts and report.samples and adds_up(report)
    parts = {part.name: part.role for part in recognize(tmp_path)[2].parts.values()}
    assert pairs(scan_folder(tmp_path, asked=parts)) == pairs(report), "what is preselected is what is guessed"


def test_some_images_with_masks_can_be_read_with_them(tmp_path: Path) -> None:
    seldom_with_masks(tmp_path)
    report = scan_folder(tmp_path)
    assert len(report.samples) == 5 and not report.paired and not report.problems
    paired = scan_folder(tmp_path, asked={"_mask": "map"})
    assert len(paired.samples) == 2 and paired.paired and adds_up(paired)


def test_ordinary_folders_of_images_are_not_asked_about(tmp_path: Path) -> None:
    photo(*(tmp_path / "photos" / kind / f"{kind}_of_canny_islands {n}.png" for kind in ("cat", "dog") for n in "12"))
    assert not scan_folder(tmp_path / "photos").doubts
    drawn(*(tmp_path / "lines" / f"{n}.png" for n in "12"))
    assert not scan_folder(tmp_path / "lines").doubts, "a dataset of drawings"


def test_validation_beside_training_is_left_out_of_images_too(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        photo(*(tmp_path / "set" / split / "cat" / f"{split}{n}.png" for n in "12"))
    report = scan_folder(tmp_path)
    assert len(report.samples) == 2 and "val2017 was left out" in " ".join(report.doubts) and adds_up(report)
    assert len(scan_folder(tmp_path, asked={"val2017": "image"}).samples) == 4


def test_what_an_earlier_version_read_stays(workspace: Workspace, tmp_path: Path) -> None:
    photo(*(tmp_path / "set" / split / f"{split}.png" for split in ("train", "val")))
    made = import_source(workspace, str(tmp_path / "set"))
    assert made.pictures == 1
    description = Path(made.folder) / "dataset.json"
    old = json.loads(description.read_text(encoding="utf-8"))
    for new in ("roles", "account"):
        del old[new]
    description.write_text(json.dumps(old), encoding="utf-8")
    assert import_source(workspace, str(tmp_path / "set")).pictures == 2, "it knew no splits"
    assert import_source(workspace, str(tmp_path / "set")).pictures == 2


def test_many_folders_are_not_compared_with_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(40):
        for name in (f"pose_{n}/p{n}", f"model_{n}/m{n}"):
            write(tmp_path / f"{name}.png", "x")
    compared: list[str] = []
    monkeypatch.setattr(folders, "shared", lambda images, maps: compared.append(maps.name) or 0.0)
    recognize(tmp_path)
    assert len(compared) < 100


def test_a_caption_belongs_to_a_sample_of_several_files(tmp_path: Path) -> None:
    for n in "12":
        photo(tmp_path / f"{n}.image.png")
        drawn(tmp_path / f"{n}.canny.png")
        write(tmp_path / f"{n}.txt", f"c{n}")
    report = scan_folder(tmp_path)
    assert [sample.caption for sample in report.samples] == ["c1", "c2"] and adds_up(report)


def test_captions_in_a_folder_for_images_with_a_word_in_their_names(tmp_path: Path) -> None:
    for n in "12":
        photo(tmp_path / f"{n}_rgb.png")
        drawn(tmp_path / f"{n}_depth.png")
        write(tmp_path / "captions" / f"{n}.txt", f"c{n}")
    assert [sample.caption for sample in scan_folder(tmp_path).samples] == ["c1", "c2"]


def test_an_archive_unpacked_into_a_folder_of_its_name(tmp_path: Path) -> None:
    for n in "12":
        photo(tmp_path / "images" / "images" / f"{n}.png")
        drawn(tmp_path / "conditioning_images" / "conditioning_images" / f"{n}.png")
    report = scan_folder(tmp_path)
    assert all(sample.condition is not None for sample in report.samples) and len(report.samples) == 2


def test_json_as_people_write_it_by_hand(tmp_path: Path) -> None:
    photo(tmp_path / "1.png", tmp_path / "2.png")
    rows = "\n".join(f"  {{file_name: '{n}.png', caption: 'it\\'s c{n}, // no comment', /* x */}}," for n in "12")
    write(tmp_path / "set.json5", f"// my set\n[\n{rows}\n]")
    report = scan_folder(tmp_path)
    assert [sample.caption for sample in report.samples] == [f"it's c{n}, // no comment" for n in "12"]
    assert report.file_usage is not None and report.file_usage.lists == 1


@pytest.mark.parametrize("text", ["[" + "/*" * 100_000, "[" + "a" * 200_000, "[" + "'\"\n" * 2_000, "[\\" * 20_000])
def test_a_hostile_list_does_not_hold_the_import(tmp_path: Path, text: str) -> None:
    photo(tmp_path / "1.png")
    write(tmp_path / "set.json5", text)
    start = time.monotonic()
    assert adds_up(scan_folder(tmp_path)) and time.monotonic() - start < 30  # else it takes minutes


def test_animations_pages_and_closed_archives_are_told(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((64, 64, 3), 40 * n, np.uint8)) for n in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:])
    photo(tmp_path / "c.png")
    write(tmp_path / "rest.7z", "x")
    for _ in range(2):  # also of files that were read before
        report = scan_folder(tmp_path)
        assert "2 files hold an animation or several pages" in " ".join(report.notes)
    assert report.file_usage is not None and "cannot unpack" in report.file_usage.left_out[0].what


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    write(tmp_path / "2.png", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 12\n")
    (problem,) = scan_folder(tmp_path).problems
    assert "git lfs pull" in problem.why


def test_lists_of_ids_kept_for_validation_are_asked_about(tmp_path: Path) -> None:
    for n in "1234":
        photo(tmp_path / "JPEGImages" / f"2007_{n}.png")
        drawn(tmp_path / "SegmentationClass" / f"2007_{n}.png")
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "2007_1\n2007_2\n2007_3\n")
    write(tmp_path / "ImageSets" / "Main" / "val.txt", "2007_4\n")
    report = scan_folder(tmp_path)
    assert len(report.samples) == 4 and adds_up(report)
    assert "ImageSets/Main/val.txt names 1 image" in " ".join(report.doubts)
    layout, images, reading = recognize(tmp_path, {"ImageSets/Main/val.txt": "ignored"})
    assert [item.image.stem for item in images] == ["2007_1", "2007_2", "2007_3"]
    assert [len(paths) for paths in reading.left_out.values()] == [2]


def test_names_that_hold_the_name_of_their_folder(tmp_path: Path) -> None:
    for n in "12":
        photo(tmp_path / "leftImg8bit" / "bonn" / f"bonn_{n}_leftImg8bit.png")
        for kind in ("color", "labelIds"):
            drawn(tmp_path / "gtFine" / "bonn" / f"bonn_{n}_gtFine_{kind}.png")
    images = recognize(tmp_path, {"leftImg8bit": "image", "gtFine": "map"})[1]
    assert [item.condition.name for item in images if item.condition] == [f"bonn_{n}_gtFine_color.png" for n in "12"]
