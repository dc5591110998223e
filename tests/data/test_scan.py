from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.scan import scan_folder
from engine.disk.images import load_rgb
from engine.errors import UserError


def image(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return path


class Cancelled(Exception):
    pass


class CancelAfter:
    def __init__(self, calls: int) -> None:
        self.left = calls

    def raise_if_cancelled(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled


@pytest.mark.answers("Do I have to write a dataset script?")
def test_a_folder_of_images_with_captions_beside_them(tmp_path: Path) -> None:
    image(tmp_path / "b.png")
    image(tmp_path / "a.jpg", (80, 64))
    image(tmp_path / "more" / "c ü.webp")
    (tmp_path / "a.txt").write_text(" a cat\n", encoding="utf-8")
    (tmp_path / "b.caption").write_text("ein Bär", encoding="utf-8")
    report = scan_folder(tmp_path)
    assert report.layout == "plain" and not report.paired and report.captioned == 2 and not report.problems
    assert [(s.key, s.caption, s.width, s.height) for s in report.samples] == [
        ("a.jpg", "a cat", 80, 64),
        ("b.png", "ein Bär", 64, 48),
        ("more/c ü.webp", "", 64, 48),
    ]


@pytest.mark.parametrize("images", ["image", "Images", "target"])
@pytest.mark.parametrize("conditions", ["condition", "conditioning_images", "source"])
def test_paired_folders_are_matched_by_stem(tmp_path: Path, images: str, conditions: str) -> None:
    for name in ("1", "2"):
        image(tmp_path / images / f"{name}.jpg")
    for name in ("1", "2", "9"):
        image(tmp_path / conditions / f"{name}.png")
    image(tmp_path / images / "3.jpg")
    (tmp_path / images / "1.txt").write_text("one", encoding="utf-8")
    report = scan_folder(tmp_path)
    assert report.layout == "paired" and report.condition_type == "own"
    assert [(s.key, s.caption) for s in report.samples] == [(f"{images}/1.jpg", "one"), (f"{images}/2.jpg", "")]
    assert report.samples[0].condition == tmp_path / conditions / "1.png"
    assert {problem.path.name for problem in report.problems} == {"3.jpg", "9.png"}


@pytest.mark.parametrize("word", ["text", "caption", "prompt"])
@pytest.mark.parametrize("link", ["conditioning_image_file_name", "conditioning_image", None])
def test_metadata_names_captions_and_maps(tmp_path: Path, word: str, link: str | None) -> None:
    image(tmp_path / "pictures" / "1.png")
    row = {"file_name": "pictures/1.png", word: "one"}
    if link:
        image(tmp_path / "maps" / "x.png")
        row[link] = "maps/x.png"
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n\nnot json\n", encoding="utf-8")
    report = scan_folder(tmp_path)
    (sample,) = report.samples
    assert report.layout == "metadata" and (sample.key, sample.caption) == ("pictures/1.png", "one")
    assert sample.condition == (tmp_path / "maps" / "x.png" if link else None)
    assert report.condition_type == ("own" if link else None)
    assert ["Line 3" in problem.what for problem in report.problems] == [True]


def test_metadata_may_not_reach_outside_the_folder(tmp_path: Path) -> None:
    image(tmp_path / "secret.png")
    image(tmp_path / "set" / "1.png")
    rows = [{"file_name": "../secret.png"}, {"file_name": "1.png"}]
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = scan_folder(tmp_path / "set")
    assert [sample.key for sample in report.samples] == ["1.png"] and len(report.problems) == 1


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header declares a size: enough for a reader to see that it is too large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_each_unusable_file_is_reported_and_the_scan_continues(tmp_path: Path) -> None:
    good = image(tmp_path / "good.png")
    whole = image(tmp_path / "cut.jpg", (200, 200)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "page.jpg").write_bytes(b"\n<!DOCTYPE html><html>404</html>")
    (tmp_path / "text.png").write_bytes(b"this is no image")
    image(tmp_path / "tiny.png", (20, 200))
    (tmp_path / "bomb.png").write_bytes(png_of(12_000, 10_000))
    (tmp_path / "bigger_bomb.png").write_bytes(png_of(30_000, 30_000))
    report = scan_folder(tmp_path)
    assert [sample.key for sample in report.samples] == ["good.png"]
    causes = {problem.path.name: f"{problem.what} {problem.why}" for problem in report.problems}
    expected = {
        "cut.jpg": "interrupted",
        "cut.png": "interrupted",
        "empty.png": "zero bytes",
        "page.jpg": "web page",
        "text.png": "not an image",
        "tiny.png": "too small (20 x 200)",
        "bomb.png": "100 million pixels",
        "bigger_bomb.png": "100 million pixels",
    }
    assert causes.keys() == expected.keys()
    assert {name: words for name, words in expected.items() if words not in causes[name]} == {}
    assert all(problem.try_this for problem in report.problems)


def test_a_folder_that_cannot_be_scanned_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x", encoding="utf-8")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"")
    for name, words in {"nowhere": "does not exist", "file.txt": "is a file", "empty": "no images"}.items():
        with pytest.raises(UserError) as caught:
            scan_folder(tmp_path / name)
        assert words in caught.value.what and caught.value.try_this
    with pytest.raises(UserError, match="None of the images"):
        scan_folder(tmp_path / "bad")


def test_progress_is_reported_and_cancelling_raises(tmp_path: Path) -> None:
    for number in range(12):
        image(tmp_path / f"{number:02}.png", seed=number)
    seen: list[tuple[int, int, str]] = []
    scan_folder(tmp_path, lambda *progress: seen.append(progress))
    assert seen == [(n + 1, 12, f"{n:02}.png") for n in range(12)]
    with pytest.raises(Cancelled):
        scan_folder(tmp_path, token=CancelAfter(3))


def test_nothing_is_written_into_the_users_folder(tmp_path: Path) -> None:
    paths = [image(tmp_path / f"{n}.png", seed=n) for n in range(3)]
    before = [(p.read_bytes(), p.stat().st_mtime_ns) for p in paths]
    scan_folder(tmp_path)
    assert [(p.read_bytes(), p.stat().st_mtime_ns) for p in paths] == before
    assert len(list(tmp_path.iterdir())) == 3


def test_load_rgb_rotates_flattens_and_converts_sixteen_bits_to_eight(tmp_path: Path) -> None:
    turned = Image.new("RGB", (40, 60), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert load_rgb(tmp_path / "turned.jpg").size == (60, 40)
    assert [(s.width, s.height) for s in scan_folder(tmp_path).samples] == [(60, 40)]

    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load_rgb(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)

    Image.fromarray(np.full((40, 40), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    assert load_rgb(tmp_path / "deep.png").getpixel((0, 0)) == (100, 100, 100)

    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=0)
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert load_rgb(tmp_path / "palette.png").getpixel((0, 0)) == (10, 20, 30)
    assert load_rgb(tmp_path / "print.jpg").mode == "RGB"
