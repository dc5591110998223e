"""The dataset check finds the caption files that the import finds, and calls empty only those that hold nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.doctor.captions import judge
from engine.data.doctor.finding import Rules, SampleFacts, Summary
from engine.data.samples import Sample
from engine.data.scan import scan_folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """One image in a folder of its own."""
    path = tmp_path / "set" / "cat.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)).save(path)
    return path


def finding(picture: Path, text: str) -> str:
    """What the check finds about the caption of the only image."""
    samples = scan_folder(picture.parent).samples
    assert [sample.caption for sample in samples] == [text]
    return " ".join(hit.finding for hit in judge(SampleFacts(samples[0], None, None), Rules(), Summary()))


NAMES = ["cat.txt", "cat.caption", "cat.png.txt", "cat..txt", "cat_caption.txt", "cat-prompt.txt", "CAT.TXT"]


@pytest.mark.parametrize("name", NAMES)
def test_wherever_the_import_finds_a_caption_an_empty_one_is_found(name: str, picture: Path) -> None:
    text = picture.with_name(name)
    text.write_text("a cat", "utf-8")
    assert finding(picture, "a cat") == ""
    text.write_text(" \n", "utf-8")
    assert finding(picture, "") == "caption_empty"
    text.unlink()
    assert finding(picture, "") == "caption_missing"


def test_a_file_that_holds_labels_is_not_empty(picture: Path) -> None:
    picture.with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1\n", "utf-8")
    assert finding(picture, "") == "caption_missing"


def test_a_caption_that_was_emptied_on_the_page_is_missing(picture: Path) -> None:
    picture.with_suffix(".txt").write_text("a cat", "utf-8")
    sample = Sample("cat.png", picture, "", None, 256, 256)
    assert [hit.finding for hit in judge(SampleFacts(sample, None, None), Rules(), Summary())] == ["caption_missing"]
