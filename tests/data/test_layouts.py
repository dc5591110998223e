"""Each layout is recognized, and its captions and maps are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.data.layouts import ORDER
from engine.data.scan import LAYOUTS, ScanReport, scan_folder
from engine.errors import UserError
from tests.data.test_scan import image


def lines(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def seen(report: ScanReport) -> dict[str, tuple[str, str]]:
    """Key -> caption and file name of the map."""
    return {s.key: (s.caption, s.condition.name if s.condition else "") for s in report.samples}


def test_every_layout_has_a_unique_name_and_title() -> None:
    assert len(LAYOUTS) == len(ORDER) and all(" " in title for title in LAYOUTS.values())


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_metadata_csv(tmp_path: Path, separator: str) -> None:
    image(tmp_path / "images" / "1.png")
    image(tmp_path / "images" / "2.png")
    image(tmp_path / "maps" / "1.png")
    image(tmp_path / "maps" / "2.png")
    rows = [
        ("File_Name", "text", "conditioning_image"),
        ("images/1.png", '"a cat, a ""big"" one; grey"', "maps/1.png"),
        ("images\\2.png", "ein Bär", "maps/2.png"),
    ]
    text = "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
    report = scan_folder(tmp_path)
    assert report.layout == "metadata_csv" and "metadata.csv" in LAYOUTS[report.layout] and not report.problems
    assert seen(report) == {
        "images/1.png": ('a cat, a "big" one; grey', "1.png"),
        "images/2.png": ("ein Bär", "2.png"),
    }


def test_a_bad_csv_line_is_reported_with_its_number(tmp_path: Path) -> None:
    image(tmp_path / "set" / "1.png")
    image(tmp_path / "secret.png")
    (tmp_path / "set" / "metadata.csv").write_text("file_name,text\n1.png,one\n\n../secret.png,x\n,y\n", "utf-8")
    report = scan_folder(tmp_path / "set")
    assert seen(report) == {"1.png": ("one", "")}
    assert [problem.what.split(" of ")[0] for problem in report.problems] == ["Line 4", "Line 5"]


def test_an_unrelated_csv_is_ignored(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    for content in ("camera,lens\nA,50\n", "", '"' + "x" * 200_000):
        (tmp_path / "metadata.csv").write_text(content, encoding="utf-8")
        assert scan_folder(tmp_path).layout == "plain"


@pytest.mark.parametrize("names", [("image", "conditioning_image"), ("image_path", "conditioning_image_path")])
def test_train_jsonl(tmp_path: Path, names: tuple[str, str]) -> None:
    for folder in ("images", "conditioning_images"):
        for number in "12":
            image(tmp_path / folder / f"{number}.png")
    lines(
        tmp_path / "train.jsonl",
        {names[0]: "images/1.png", names[1]: "conditioning_images/1.png", "text": ["one", "uno"]},
        {names[0]: "images/2.png", names[1]: "conditioning_images/2.png", "caption": "two"},
    )
    report = scan_folder(tmp_path)
    assert report.layout == "train_jsonl" and report.paired and not report.problems
    assert seen(report) == {"images/1.png": ("one", "1.png"), "images/2.png": ("two", "2.png")}


@pytest.mark.parametrize("as_list", [False, True])
def test_prompt_json_of_the_original_controlnet(tmp_path: Path, as_list: bool) -> None:
    rows = [{"source": f"source/{n}.png", "target": f"target/{n}.png", "prompt": f"circle {n}"} for n in range(2)]
    for row in rows:
        image(tmp_path / row["source"])
        image(tmp_path / row["target"])
    lines(tmp_path / "prompt.json", *([rows] if as_list else rows))
    report = scan_folder(tmp_path)
    assert report.layout == "prompt_json" and "original ControlNet" in LAYOUTS[report.layout]
    assert seen(report) == {"target/0.png": ("circle 0", "0.png"), "target/1.png": ("circle 1", "1.png")}
    assert report.samples[0].condition == tmp_path / "source" / "0.png"


def test_broken_lines_and_unrelated_lists_are_ignored(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    for content in ("[1, 2", "[[1], null, 3]", '{"steps": 20}', "3\nnull\n", ""):
        (tmp_path / "prompt.json").write_text(content, encoding="utf-8")
        (tmp_path / "train.jsonl").write_text(content, encoding="utf-8")
        report = scan_folder(tmp_path)
        assert report.layout == "plain" and len(report.samples) == 1
    lines(tmp_path / "train.jsonl", 3, None, {"image": "1.png"}, {"image": 5}, {"image": "1.png", "text": "later"})
    report = scan_folder(tmp_path)
    assert report.layout == "train_jsonl" and seen(report) == {"1.png": ("later", "")}
    assert [problem.what.split(" of ")[0] for problem in report.problems] == ["Line 1", "Line 2", "Line 4"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "train.jsonl"])
def test_a_source_column_with_an_origin_is_not_a_map(tmp_path: Path, name: str) -> None:
    image(tmp_path / "1.png")
    lines(tmp_path / name, {"file_name": "1.png", "source": "a web site", "condition": "good", "target": "x"})
    report = scan_folder(tmp_path)
    assert seen(report) == {"1.png": ("", "")} and not report.problems


def test_among_several_lists_the_first_in_the_order_is_used(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    lines(tmp_path / "train.jsonl", {"image": "1.png", "text": "train"})
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.png,csv\n", encoding="utf-8")
    assert seen(scan_folder(tmp_path)) == {"1.png": ("csv", "")}
    lines(tmp_path / "metadata.jsonl", {"file_name": "1.png", "text": "jsonl"})
    assert seen(scan_folder(tmp_path)) == {"1.png": ("jsonl", "")}


def test_kohya_folders_with_captions_in_files_or_in_their_names(tmp_path: Path) -> None:
    image(tmp_path / "10_sks cat" / "a.png")
    image(tmp_path / "10_sks cat" / "b.png")
    image(tmp_path / "10_sks cat" / "c.png")
    image(tmp_path / "5_dog" / "a.png")
    (tmp_path / "10_sks cat" / "a.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "10_sks cat" / "b.caption").write_text("two cats", encoding="utf-8")
    (tmp_path / "10_sks cat" / "c.txt").write_text("", encoding="utf-8")
    report = scan_folder(tmp_path)
    assert report.layout == "kohya" and "kohya" in LAYOUTS[report.layout] and not report.paired
    assert {key: caption for key, (caption, _) in seen(report).items()} == {
        "10_sks cat/a.png": "a cat",
        "10_sks cat/b.png": "two cats",
        "10_sks cat/c.png": "",  # an empty file means: no caption
        "5_dog/a.png": "dog",
    }


@pytest.mark.parametrize("base", [".", "img"])
@pytest.mark.parametrize("conditions", ["conditioning_data", "conditioning", "Condition"])
def test_kohya_folders_with_a_conditioning_folder(tmp_path: Path, base: str, conditions: str) -> None:
    for name in ("10_cat/a", "10_cat/b", "5_dog/a"):
        image(tmp_path / base / f"{name}.jpg")
    image(tmp_path / conditions / "10_cat" / "a.png")
    image(tmp_path / conditions / "b.png")
    image(tmp_path / conditions / "a.png")  # ambiguous: there are two images named a
    image(tmp_path / "reg" / "1_cat" / "r.png")
    report = scan_folder(tmp_path)
    prefix = "" if base == "." else "img/"
    assert report.layout == "kohya" and report.condition_type == "own"
    assert seen(report) == {f"{prefix}10_cat/a.jpg": ("cat", "a.png"), f"{prefix}10_cat/b.jpg": ("cat", "b.png")}
    assert report.samples[0].condition == tmp_path / conditions / "10_cat" / "a.png"
    assert sorted(problem.what for problem in report.problems) == [
        "This condition map has no image.",
        "This image has no condition map.",
    ]


@pytest.mark.parametrize("name", ["2019_summer", "01_cats", "10_", "cats_10"])
def test_folders_that_only_resemble_kohyas_are_read_as_plain(tmp_path: Path, name: str) -> None:
    image(tmp_path / name / "a.png")
    assert scan_folder(tmp_path).layout == "plain"


def test_no_image_is_lost_beside_a_kohya_folder(tmp_path: Path) -> None:
    image(tmp_path / "10_cat" / "a.png")
    image(tmp_path / "10_cat" / "deeper" / "b.png")
    assert len(scan_folder(tmp_path).samples) == 2
    image(tmp_path / "loose.png")
    report = scan_folder(tmp_path)
    assert report.layout == "plain" and len(report.samples) == 3


@pytest.mark.parametrize("conditions", ["conditioning_images", "control", "Hint"])
def test_images_beside_a_folder_of_maps(tmp_path: Path, conditions: str) -> None:
    for name in "12":
        image(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.txt").write_text(f"caption {name}", encoding="utf-8")
        image(tmp_path / conditions / f"{name}.png")
    image(tmp_path / "3.jpg")
    report = scan_folder(tmp_path)
    assert report.layout == "paired" and seen(report) == {
        "1.jpg": ("caption 1", "1.png"),
        "2.jpg": ("caption 2", "2.png"),
    }
    assert [problem.path.name for problem in report.problems] == ["3.jpg"]


def test_a_folder_merely_named_source_is_not_a_map_folder(tmp_path: Path) -> None:
    image(tmp_path / "cover.jpg")
    image(tmp_path / "source" / "1.jpg")
    report = scan_folder(tmp_path)
    assert report.layout == "plain" and len(report.samples) == 2


def test_img2dataset_files(tmp_path: Path) -> None:
    facts = {"key": "000000000", "status": "success", "url": "http://localhost/a.jpg", "caption": "from the json"}
    for number in range(4):
        image(tmp_path / "00000" / f"{number:09}.jpg")
        lines(tmp_path / "00000" / f"{number:09}.json", facts)
    (tmp_path / "00000" / "000000001.txt").write_text("from the text", encoding="utf-8")
    lines(tmp_path / "00000" / "000000002.json", {**facts, "caption": None})
    (tmp_path / "00000" / "000000003.json").write_text("{cut", encoding="utf-8")
    (tmp_path / "00000_stats.json").write_text("{}", encoding="utf-8")
    report = scan_folder(tmp_path)
    assert report.layout == "img2dataset" and "img2dataset" in LAYOUTS[report.layout]
    assert [sample.caption for sample in report.samples] == ["from the json", "from the text", "", ""]


def test_numbered_images_with_unrelated_json_are_read_as_plain(tmp_path: Path) -> None:
    image(tmp_path / "000000001.jpg")
    assert scan_folder(tmp_path).layout == "plain"
    lines(tmp_path / "000000001.json", {"caption": "x"})
    assert scan_folder(tmp_path).layout == "plain"


def test_a_list_that_names_only_missing_files_is_reported(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", {"image": "gone.png", "text": "x"})
    with pytest.raises(UserError, match="None of the images"):
        scan_folder(tmp_path)
