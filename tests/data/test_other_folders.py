"""Folders of the same kinds as those that people reported, with other names, lists and files: rule by rule.

Each is read without a traceback, its file usage adds up, and no map is taken for an image.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.layouts import recognize
from engine.data.scan import ScanReport, scan_folder
from engine.errors import UserError
from tests.data.test_found_in_the_wild import adds_up, drawn, photo, rows, write

Build = Callable[[Path], None]


def said(report: ScanReport) -> str:
    """All that the user is told."""
    assert report.file_usage is not None
    told = [*report.doubts, *report.notes, *report.file_usage.sentences()]
    return " ".join([*told, *(f"{problem.what} {problem.why}" for problem in report.problems)])


def read(root: Path, count: int) -> ScanReport:
    """A folder of ``count`` pairs is read as such, with all captions that it has."""
    report = scan_folder(root)
    assert report.paired and len(report.samples) == count, said(report)
    for sample in report.samples:
        assert sample.condition is not None
        assert np.asarray(Image.open(sample.image)).ndim == 3 and np.asarray(Image.open(sample.condition)).ndim == 2
    assert adds_up(report)
    return report


FOLDERS = [
    ("A", "B"), ("color", "edges"), ("real", "sketch"), ("gt", "lq"), ("HR", "LR"), ("clean", "noisy"), ("x", "y"),
    ("inputs", "labels"), ("JPEGImages", "SegmentationClass"), ("imgs", "annotations"), ("images", "labels"),
    ("rgb", "nir"), ("photo", "line art"), ("image", "image_canny"), ("images", "images_depth"),
    ("images_512", "canny_512"), ("person", "pose"), ("cloth", "densepose"), ("img", "lineart_anime"),
    ("RGB", "Depth16"), ("data/images", "data/masks"), ("1_images", "2_conditions"), ("原图", "线稿"),
    ("images", "コントロール"), ("before", "after"), ("dataset", "conditioning dataset"), ("real_A", "fake_B"),
    ("original", "controlnet_canny"), ("train/target", "train/source"), ("images/train", "conditioning/train"),
    ("train", "train_cond"), ("ground-truth", "conditions"), ("frames", "optical_flow"), ("bokeh", "trimap"),
    ("images", "normals"), ("my set/x/images", "my set/x/depth"), ("Изображения", "Контуры"), ("01 photos", "02 maps"),
    ("img.v1", "cond.v1"), ("images", "hed (soft edge)"), ("Source Images", "Control Images"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "maps"), FOLDERS)
def test_two_folders_with_the_same_names(tmp_path: Path, images: str, maps: str) -> None:
    for n in "123":
        photo(tmp_path / images / f"{n}.png")
        drawn(tmp_path / maps / f"{n}.png")
        write(tmp_path / images / f"{n}.txt", f"c{n}")
    assert {sample.caption for sample in read(tmp_path, 3).samples} == {"c1", "c2", "c3"}


NAMES = [
    ("{n}_R", "{n}_C"), ("{n}_0", "{n}_1"), ("{n}", "x{n}"), ("{n}", "{n}_rendered"), ("a{n}", "b{n}"),
    ("{n}-photo-final", "{n}-drawing-final"), ("s{n}/0", "s{n}/1"), ("s{n}/in", "s{n}/out"), ("{n}", "{n}_lines"),
    ("img{n}", "img{n}L"), ("IMG_{n}", "MASK_{n}"), ("{n}.rgb", "{n}.depth"), ("photo {n}", "photo {n} (canny)"),
]  # fmt: skip


@pytest.mark.parametrize(("image", "map"), NAMES)
def test_one_folder_with_names_that_differ_in_a_part(tmp_path: Path, image: str, map: str) -> None:
    for n in "1234":
        photo(tmp_path / f"{image.format(n=n)}.png")
        drawn(tmp_path / f"{map.format(n=n)}.png")
    report = read(tmp_path, 4)
    parts = {part.name: part.role for part in recognize(tmp_path)[2].parts.values()}
    again = scan_folder(tmp_path, asked=parts)
    assert [(s.image, s.condition) for s in again.samples] == [(s.image, s.condition) for s in report.samples]


def columns(**cells: str) -> list[dict[str, str]]:
    return [{name: value.format(n=n) for name, value in cells.items()} for n in "12"]


P, C, T = "images/{n}.png", "cond/{n}.png", "c{n} of a cat"
LISTS: list[tuple[str, object]] = [
    ("metadata.jsonl", columns(file_name="/workspace/data/" + P, conditioning_image="/workspace/data/" + C, text=T)),
    ("metadata.jsonl", columns(file_name="D:\\data\\images\\{n}.png", condition="D:\\data\\cond\\{n}.png", text=T)),
    ("metadata.jsonl", columns(file_name="images/{n}", conditioning_image="cond/{n}", text=T)),
    ("metadata.jsonl", columns(File_Name=P, Conditioning_Image=C, Text=T)),
    ("metadata.jsonl", columns(target_image=P, edge_map=C, instruction=T)),
    ("metadata.jsonl", [row | {"source": C.format(n="9")} for row in columns(file_name=P, control=C, text=T)]),
    ("metadata.jsonl", [{"file_name": P.format(n=n), "conditioning_images": [C.format(n=n)], "text": T.format(n=n)}
                        for n in "12"]),
    ("metadata.jsonl", [{"image": {"path": P.format(n=n)}, "condition": {"type": "canny", "path": C.format(n=n)},
                         "text": T.format(n=n)} for n in "12"]),
    ("images/metadata.jsonl", columns(file_name="{n}.png", conditioning_image="../cond/{n}.png", text=T)),
    ("data.json", {"image": [P.format(n=n) for n in "12"], "condition": [C.format(n=n) for n in "12"],
                   "text": [T.format(n=n) for n in "12"]}),
    ("data.json", {"image": {"0": P.format(n=1), "1": P.format(n=2)}, "text": {"0": T.format(n=1), "1": T.format(n=2)},
                   "control": {"0": C.format(n=1), "1": C.format(n=2)}}),
    ("data.json", [[P.format(n=n), C.format(n=n), T.format(n=n)] for n in "12"]),
    ("data.json", [["image", "control", "prompt"], *([P.format(n=n), C.format(n=n), T.format(n=n)] for n in "12")]),
    ("data.json", {"meta": {"version": 1}, "samples": columns(image=P, hint=C, caption=T)}),
    ("dataset.jsonl", columns(target=P, source=C, prompt=T)),
    ("pairs.csv", f"{P},{C},{T}"),
    ("pairs.csv", f"{C};{P};{T}"),
    ("pairs.csv", f",image,control,caption\n1,{P},{C},{T}"),
    ("pairs.tsv", f"Image Path\tControl Path\tPrompt\n{P}\t{C}\t{T}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), LISTS)
def test_lists_in_every_form(tmp_path: Path, name: str, content: object) -> None:
    for n in "12":
        photo(tmp_path / "images" / f"{n}.png")
        drawn(tmp_path / "cond" / f"{n}.png")
    if isinstance(content, str):
        head, _, row = content.rpartition("\n")
        write(tmp_path / name, "\n".join([*filter(None, [head]), *(row.format(n=n) for n in "12")]))
    elif name.endswith("l") and isinstance(content, list):
        rows(tmp_path / name, *content)
    else:
        write(tmp_path / name, content)
    report = read(tmp_path, 2)
    assert sorted(sample.caption for sample in report.samples) == ["c1 of a cat", "c2 of a cat"], said(report)
    assert report.file_usage is not None and report.file_usage.lists == 1 and not report.problems, said(report)
    assert not report.file_usage.left_out, "maps that a list names are used"


@pytest.mark.parametrize(
    "build",
    [
        lambda root: [write(root / f"{n}.md", f"c{n}") for n in "12"],
        lambda root: [write(root / f"{n}.tags", f"c{n}") for n in "12"],
        lambda root: [write(root / f"{n}.TXT", f"c{n}") for n in "12"],
        lambda root: rows(root / "captions.jsonl", *({f"{n}.png": f"c{n}"} for n in "12")),
        lambda root: write(root / "captions.md", "- 1.png: c1\n- 2.png: c2"),
        lambda root: write(root / "captions.txt", "image,caption\n1.png,c1\n2.png,c2"),
        lambda root: write(root / "set.token.txt", "1.png#0\tc1\n1.png#1\tother\n2.png#0\tc2"),
        lambda root: [(root / f"{n}.txt").write_bytes(b"\xfe\xff" + f"c{n}".encode("utf-16-be")) for n in "12"],
        lambda root: [write(root / f"{n}.json", {"image": {"caption": f"c{n}"}, "caption": f"c{n}"}) for n in "12"],
        lambda root: [write(root / "prompts" / f"{n}.prompt", f"c{n}") for n in "12"],
    ],
)
def test_captions_in_every_form(tmp_path: Path, build: Build) -> None:
    photo(tmp_path / "1.png", tmp_path / "2.png")
    build(tmp_path)
    report = scan_folder(tmp_path)
    assert [sample.caption for sample in report.samples] == ["c1", "c2"] and adds_up(report), said(report)


def pairs_of_names(root: Path) -> None:
    for n in "12":
        photo(root / "images" / f"{n}.png")
        drawn(root / "cond" / f"{n}.png")
    write(root / "train.txt", "images/1.png cond/1.png\nimages/2.png cond/2.png")


def poses(root: Path) -> None:
    for n in "12":
        photo(root / "images" / f"{n}.png")
        write(root / "poses" / f"{n}.json", {"people": [{"pose_keypoints_2d": [1, 2, 3]}]})


def unread(ending: str) -> Build:
    def build(root: Path) -> None:
        for n in "12":
            photo(root / "images" / f"{n}.png")
            write(root / "depth" / f"{n}{ending}", "x")

    return build


def archive_beside(root: Path) -> None:
    photo(root / "1.png", root / "2.png")
    write(root / "1.txt", "c1")
    with zipfile.ZipFile(root / "more.zip", "w") as file:
        file.writestr("3.png", (root / "1.png").read_bytes())


def other_names(root: Path) -> None:
    for n in "12":
        photo(root / "images" / f"img{n}.png")
        drawn(root / "cond" / f"depth_000{n}_x7.png")


def fewer_maps(root: Path) -> None:
    photo(*(root / "images" / f"{n}.png" for n in "12345"))
    drawn(*(root / "depth" / f"{n}.png" for n in "123"))


def two_lists(root: Path) -> None:
    for n in "1234":
        photo(root / "images" / f"{n}.png")
        drawn(root / "masks" / f"{n}.png")
    for name, part in (("train", "12"), ("val", "34")):
        rows(root / f"{name}.jsonl", *({"image": f"images/{n}.png", "mask": f"masks/{n}.png"} for n in part))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (pairs_of_names, "train.txt"),
        (poses, "instead of captions: poses/1.json, poses/2.json"),
        (unread(".npy"), "2 NumPy files have the same names as images, such as depth/1.npy"),
        (unread(".exr"), "2 OpenEXR files have the same names as images"),
        (unread(".svg"), "2 SVG files have the same names as images"),
        (unread(".heic"), "HEIC files have the same names as images"),
        (archive_beside, "1 archive, which is not unpacked when there are images next to it: more.zip"),
        (other_names, "the images were read without maps"),
        (fewer_maps, "There is no file named 4 in depth"),
        (two_lists, "val.jsonl"),
    ],
)
def test_what_is_not_used_is_told(tmp_path: Path, build: Build, words: str) -> None:
    build(tmp_path)
    report = scan_folder(tmp_path)
    assert words in said(report) and adds_up(report), said(report)
    assert all(np.asarray(Image.open(sample.image)).ndim == 3 for sample in report.samples)


@pytest.mark.parametrize("name", ["README.md", "readme.txt", "LICENSE.md", "CHANGELOG.md"])
def test_texts_about_the_folder_are_no_captions(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "readme" / "readme.png")
    write(tmp_path / "readme" / name, "about: this set")
    report = scan_folder(tmp_path)
    assert report.samples[0].caption == "" and name in said(report)


def test_a_series_of_photographs_is_not_taken_apart(tmp_path: Path) -> None:
    photo(*(tmp_path / f"{n}_{view}.png" for n in "123" for view in "01"))
    photo(*(tmp_path / "more" / f"s{n}" / f"{view}.png" for n in "123" for view in "ab"))
    report = scan_folder(tmp_path)
    assert len(report.samples) == 12 and not report.paired and adds_up(report)


def test_nothing_readable_is_an_error_that_names_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a.heic", "x")
    write(tmp_path / "notes.json", json.dumps({"a": 1}))
    with pytest.raises(UserError, match="no images") as caught:
        scan_folder(tmp_path)
    assert "HEIC" in caught.value.why
