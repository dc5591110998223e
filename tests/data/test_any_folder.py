"""Random folders from a grammar of what people have: the account adds up, and no map is taken for an image."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from engine.data.layouts import recognise
from engine.data.scan import scan_folder
from engine.errors import UserError
from tests.data.test_found_in_the_wild import adds_up, drawn, photo, write

IMAGE_FOLDERS = (
    "images",
    "image",
    "Images",
    "target",
    "img",
    "rgb",
    "photos",
    "target_image_dir",
    "ground_truth",
    "JPEGImages",
    "原图",
    "01 pictures",
)
MAP_FOLDERS = (
    "conditioning_images",
    "control",
    "Canny",
    "depth",
    "mask",
    "source",
    "x-conditioning",
    "hint",
    "openpose",
    "lineart_anime",
    "edge maps",
    "SegmentationClass",
    "线稿",
)
ENDINGS = ("-condlabel", "_canny", "_depth", "-masklabel", "_openpose", ".control")
COLUMNS = (
    ("file_name", "conditioning_image", "text"),
    ("file_name", "control_image", "caption"),
    ("image", "conditioning_image", "prompt"),
    ("image_path", "control_path", "caption"),
    ("target", "source", "prompt"),
    ("img", "depth_map", "description"),
    ("File Name", "Condition", "Long Caption"),
)
LISTS = ("metadata.jsonl", "metadata.csv", "train.jsonl", "data.json", "pairs.tsv")
PARTS = (("{n}_A", "{n}_B"), ("{n}", "{n}x"), ("a{n}", "b{n}"), ("s{n}/one", "s{n}/two"), ("{n}-0", "{n}-1"))
"""Names of images and maps that differ in a part which says nothing."""
NAMES = ("{n}", "{n:05}", "my photo {n}", "été {n}", "写真_{n}", "a.b.{n}", "IMG_{n}")
NOISE: tuple[tuple[str, bytes], ...] = (
    ("README.md", b"# a dataset"),
    ("lonely.txt", b"a text"),
    ("photo.heic", b"\0\0\0\x18ftypheic"),
    ("old.zip", b"PK"),
    ("film.mp4", b"x"),
    ("Thumbs.db", b"x"),
    (".DS_Store", b"x"),
    ("config.json", b'{"a": 1}'),
    ("broken.png", b"\x89PNG\r\n\x1a\n"),
    ("no_ending", b"what is this"),
    ("data/train.parquet", b"PAR1"),
)
Make = Callable[[Path, list[str], random.Random], None]


def captions(folder: Path, names: list[str], chance: random.Random) -> None:
    """Captions beside the images, in one of the forms and encodings."""
    ending = chance.choice((".txt", ".caption", ".png.txt", ".json"))
    encoding = chance.choice(("utf-8", "utf-8-sig", "utf-16", "cp1252"))
    for name in names:
        text = f"caption é of {unicodedata.normalize('NFC', name)}"
        body = json.dumps({"caption": text}) if ending == ".json" else text
        (folder / f"{name}{ending}").write_bytes(body.encode(encoding, "replace"))


def two_folders(root: Path, names: list[str], chance: random.Random) -> None:
    images, maps = root / chance.choice(IMAGE_FOLDERS), root / chance.choice(MAP_FOLDERS)
    for name in names:
        photo(images / f"{name}.png")
        drawn(maps / f"{unicodedata.normalize(chance.choice(('NFC', 'NFD')), name)}.png")
    captions(images, names, chance)


def beside(root: Path, names: list[str], chance: random.Random) -> None:
    maps = root / chance.choice(("conditioning_images", "control", "canny"))
    for name in names:
        photo(root / f"{name}.png")
        drawn(maps / f"{name}.png")
    captions(root, names, chance)


def endings(root: Path, names: list[str], chance: random.Random) -> None:
    ending = chance.choice(ENDINGS)
    for name in names:
        photo(root / f"{name}.png")
        drawn(root / f"{name}{ending}.png")
    captions(root, names, chance)


def listed(root: Path, names: list[str], chance: random.Random) -> None:
    images, maps = chance.choice(("images", "a", ".")), chance.choice(("conditioning_images", "b", "maps"))
    image, map, caption = chance.choice(COLUMNS)
    rows = []
    for name in names:
        photo(root / images / f"{name}.png")
        drawn(root / maps / f"{name}.png")
        rows.append({image: f"{images}/{name}.png", map: f"{maps}/{name}.png", caption: f"a caption of {name}"})
    path = root / chance.choice(LISTS)
    encoding = chance.choice(("utf-8", "utf-8-sig", "utf-16"))
    if path.suffix in (".csv", ".tsv"):
        mark = "\t" if path.suffix == ".tsv" else chance.choice(",;")
        text = "\n".join(mark.join(row) for row in [list(rows[0]), *(list(row.values()) for row in rows)])
    elif path.suffix == ".json":
        by_column = {name: [row[name] for row in rows] for name in rows[0]}
        arrays = [list(rows[0]), *(list(row.values()) for row in rows)]
        text = json.dumps(chance.choice((rows, by_column, arrays, {"data": rows})), indent=chance.choice((None, 2)))
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=chance.random() < 0.5) for row in rows)
    path.write_bytes(text.encode(encoding))


def told_apart(root: Path, names: list[str], chance: random.Random) -> None:
    image, map = chance.choice(PARTS)
    for n in range(1, len(names) + 1):
        photo(root / f"{image.format(n=n)}.png")
        drawn(root / f"{map.format(n=n)}.png")
        write(root / f"{image.format(n=n)}.txt", f"caption of {n}")


def splits(root: Path, names: list[str], chance: random.Random) -> None:
    make = chance.choice((two_folders, endings, listed))
    make(root / "train", names, chance)
    if chance.random() < 0.5:
        two_folders(root / chance.choice(("validation", "val", "test")), names, chance)


@pytest.mark.parametrize(
    "make", [two_folders, beside, endings, listed, told_apart, splits], ids=lambda make: make.__name__
)
@pytest.mark.parametrize("seed", range(12))
def test_any_folder(tmp_path: Path, make: Make, seed: int) -> None:
    chance = random.Random(f"{make.__name__} {seed}")
    pattern = chance.choice(NAMES)
    names = [pattern.format(n=n) for n in range(1, chance.randint(2, 5) + 1)]
    make(tmp_path, names, chance)
    for name, content in chance.sample(NOISE, chance.randint(0, 5)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    told = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    report = scan_folder(tmp_path)

    assert report.paired and len(report.samples) == len(names)
    for sample in report.samples:
        assert sample.condition is not None
        assert sample.image.stat().st_size > 2_000 > sample.condition.stat().st_size, (
            "noise is an image, lines are a map"
        )
        assert sample.caption.startswith("caption") or sample.caption.startswith("a caption"), sample.caption
    assert adds_up(report)
    assert {path: path.read_bytes() for path in told} == told, "the person's own files are only read"


def damage(path: Path, chance: random.Random) -> None:
    """Cut a file, change some of its bytes, empty it, copy it, or give it another name, place or ending."""
    content = bytearray(path.read_bytes())
    way = chance.randrange(7)
    if way == 0:
        path.write_bytes(content[: len(content) // 2])
    elif way == 1:
        for _ in range(min(5, len(content))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
    elif way == 2:
        path.write_bytes(b"")
    elif way == 3:
        path.with_name(f"copy of {path.name}").write_bytes(content)
    elif way == 4:
        path.rename(path.with_name(f"é {path.name.upper()}"))
    elif way == 5:
        path.rename(path.parents[1] / path.name)
    else:
        path.rename(path.with_suffix(chance.choice((".txt", ".json", ".csv", ".png", ".md", ".toml", ".yaml", ""))))


@pytest.mark.parametrize("seed", range(20))
def test_any_damaged_folder_is_accounted_for_or_refused_in_words(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    root = tmp_path / "set"
    for place in (root, root / "more")[: chance.randint(1, 2)]:
        names = [chance.choice(NAMES).format(n=n) for n in range(1, chance.randint(2, 4))]
        chance.choice((two_folders, beside, endings, listed, splits))(place, names, chance)
    files = [path for path in root.rglob("*") if path.is_file()]
    for path in chance.sample(files, min(len(files), 4)):
        damage(path, chance)
    with suppress(UserError):
        report = scan_folder(root)
        assert adds_up(report)
        parts = recognise(root)[2].parts
        report = scan_folder(root, asked={name: chance.choice(("image", "map", "ignored")) for name in parts})
        assert adds_up(report)
