"""Random folders from a grammar of what people have: the file usage adds up, and no map is taken for an image."""

from __future__ import annotations

import json
import random
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from engine.data.dataset import Dataset
from engine.data.importing import import_source
from engine.data.layouts import recognize
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.workspace.paths import Workspace
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
COMPOUND = (
    "{n}.canny", "{n}_cond", "{n}-condlabel", "{n}.depth", "{n}_control", "{n}_mask", "{n}_depth_map", "canny_{n}",
    "{n}(canny)", "{n} canny", "{n}.openpose", "{n}_conditioning_image",
)  # fmt: skip
COMPOUND_NAMES = (
    "img ({n})", "写真_{n}", "my.photo.{n}", "a b {n}", "été{n}", "IMG_{n}_final", "cat, dog {n}", "x{n}.v2", "🐱{n}",
)  # fmt: skip
PARTS_OF_KEY = ("canny.png", "cond.png", "conditioning_image.png", "control.png", "hint.png", "map.png", "seg.png")
TABLE = (
    ("image", "conditioning_image", "text"),
    ("target", "source", "prompt"),
    ("img", "depth", "description"),
    ("jpg", "hint", "txt"),
    ("output_image", "input_image", "edit_prompt"),
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


def compound(root: Path, names: list[str], chance: random.Random) -> None:
    """Maps in one folder with the images, or in their own, whose names are the images' and more."""
    names[:] = [chance.choice(COMPOUND_NAMES).format(n=n) for n in range(len(names))]
    pattern, ending, own = chance.choice(COMPOUND), chance.choice((".png", ".webp", ".gif")), chance.random() < 0.4
    images, maps = (root / chance.choice(IMAGE_FOLDERS), root / chance.choice(MAP_FOLDERS)) if own else (root, root)
    for name in names:
        photo(images / f"{name}.png")
        drawn(maps / f"{pattern.format(n=name)}{ending}")
        write(images / f"{name}.txt", f"caption of {name}")


@pytest.mark.parametrize(
    "make", [two_folders, beside, endings, listed, told_apart, splits, compound], ids=lambda make: make.__name__
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
        parts = recognize(root)[2].parts
        report = scan_folder(root, asked={name: chance.choice(("image", "map", "ignored")) for name in parts})
        assert adds_up(report)


def zipped(root: Path, tree: Path, chance: random.Random) -> None:
    """One archive, also with a folder around everything; or one for each folder, with the lists beside."""
    tops = [path for path in tree.iterdir() if path.is_dir()]
    if tops and not list(tree.glob("*.png")) and chance.random() < 0.4:
        for top in tops:
            _zip(root / f"{top.name}.zip", tree, top)
        for path in tree.iterdir():
            if path.is_file():
                (root / path.name).write_bytes(path.read_bytes())
        return
    _zip(root / "set.zip", tree.parent if chance.random() < 0.5 else tree, tree)


def _zip(path: Path, start: Path, inside: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(inside.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(start).as_posix())


def tarred(root: Path, tree: Path, chance: random.Random) -> None:
    ending, mode = chance.choice(((".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz")))
    with tarfile.open(root / f"set{ending}", mode) as archive:  # type: ignore[call-overload]
        archive.add(tree, chance.choice((".", "my set")))


def webdataset(root: Path, tree: Path, chance: random.Random) -> None:
    """Several parts a key, in one archive or in several."""
    part, caption = chance.choice(PARTS_OF_KEY), chance.choice(("txt", "json", "caption"))
    kind = chance.choice(("png", "image.png", "target.png"))
    photo(tree / "photo.png")
    drawn(tree / "map.png")
    keys = [f"{chance.choice(('', 'a/', 'x.y.'))}{n:06}" for n in range(chance.randint(2, 5))]
    for number, some in enumerate((keys[:1], keys[1:])):
        with tarfile.open(root / f"{number:05}.tar", "w") as archive:
            for key in some:
                text = f"caption of {key}"
                write(tree / "text", json.dumps({"caption": text}) if caption == "json" else text)
                for file, ending in (("photo.png", kind), ("map.png", part), ("text", caption)):
                    archive.add(tree / file, f"{key}.{ending}")


def table(root: Path, tree: Path, chance: random.Random) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    photo(tree / "photo.png")
    drawn(tree / "map.png")
    image, map, caption = chance.choice(TABLE)
    form = chance.choice((lambda file: file, lambda file: {"bytes": file, "path": "1.png"}, lambda file: [file]))
    cells = [form((tree / name).read_bytes()) for name in ("photo.png", "map.png")]
    (root / "data").mkdir()
    for split, count in (("train", chance.randint(1, 3)), ("validation", chance.randint(0, 2))):
        rows = [{image: cells[0], map: cells[1], caption: f"caption of {n}"} for n in range(count)]
        if rows:
            parquet.write_table(arrow.Table.from_pylist(rows), root / "data" / f"{split}-00000-of-00001.parquet")
    if chance.random() < 0.5:
        photo(root / "preview.png")


@pytest.mark.parametrize("pack", [zipped, tarred, webdataset, table], ids=lambda pack: pack.__name__)
@pytest.mark.parametrize("seed", range(7))
def test_any_archive(tmp_path: Path, pack: Callable[[Path, Path, random.Random], None], seed: int) -> None:
    chance = random.Random(f"{pack.__name__} {seed}")
    root, tree = tmp_path / "set", tmp_path / "tree"
    root.mkdir()
    tree.mkdir()
    if pack in (zipped, tarred):
        make = chance.choice((two_folders, endings, listed, splits, compound))
        make(tree, [chance.choice(NAMES).format(n=n) for n in range(1, chance.randint(3, 5))], chance)
    pack(root, tree, chance)
    told = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    made = import_source(Workspace(tmp_path / "w"), str(root), "any")

    samples = Dataset.open(Path(made.folder)).samples()
    assert made.paired and samples and not made.problems
    for sample in samples:
        assert sample.condition is not None
        assert sample.image.stat().st_size > 2_000 > sample.condition.stat().st_size, "lines are a map"
        assert sample.caption.startswith(("caption", "a caption")), sample.caption
    assert {path: path.read_bytes() for path in told} == told, "the person's own files are only read"
