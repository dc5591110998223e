"""Datasets of real photographs with known faults, each at least three times, and the findings expected for them."""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

from engine.conditions import registry

SIDE = 256
HELD_OUT = 6
_LATE = 0x60  # names whose hash starts lower are held out first
Expected = dict[str, set[str]]


@dataclass
class Planted:
    """``expected``: name of the finding -> keys, or paths of files that belong to no sample."""

    folder: Path
    expected: Expected = field(default_factory=lambda: defaultdict(set))
    clean: set[str] = field(default_factory=set)


def photographs() -> Iterator[np.ndarray]:
    """Different crops of SIDE px, RGB uint8, then the same mirrored and rotated."""
    astronaut, coffee, chelsea, rocket = data.astronaut(), data.coffee(), data.chelsea(), data.rocket()
    motorcycle, tissue = data.stereo_motorcycle()[0], data.immunohistochemistry()
    places = [(astronaut, y, x) for y in (0, 256) for x in (0, 256)]
    places += [(coffee, 60, 0), (coffee, 60, 300), (chelsea, 20, 100), (rocket, 100, 100)]
    places += [(motorcycle, y, x) for y in (0, 244) for x in (0, 240, 480)]
    places += [(tissue, y, x) for y in (0, 256) for x in (0, 256)]
    for turn in range(8):
        for photo, y, x in places:
            crop = photo[y : y + SIDE, x : x + SIDE]
            yield np.ascontiguousarray(np.rot90(crop[:, ::-1] if turn % 2 else crop, turn // 2))


def write(path: Path, pixels: np.ndarray, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


def _rank(name: str) -> int:
    return hashlib.blake2b(f"0:{name}".encode(), digest_size=8).digest()[0]


def _named(stem: str, ending: str, late: bool) -> str:
    """A name that is held out, or one that is not."""
    return next(n for i in range(999) if (_rank(n := f"{stem}-{i}{ending}") >= _LATE) == late)


def plant_images(folder: Path) -> Planted:
    """A folder of images with caption files."""
    planted, photos = Planted(folder), photographs()
    expected = planted.expected
    count = 0

    def add(kind: str, ending: str, save: Callable[[Path, np.ndarray], object], caption: str | None = "") -> str:
        nonlocal count
        count += 1
        name = _named(f"{kind}{count}", ending, late=True)
        save(folder / name, next(photos))
        if caption is not None:
            (folder / name).with_suffix(".txt").write_text(caption or f"a photograph, number {count}", "utf-8")
        return name

    for number in range(18):
        name = _named(f"clean{number}", ".png", late=number >= HELD_OUT)
        write(folder / name, next(photos))
        (folder / name).with_suffix(".txt").write_text(f"a clean photograph, number {number} & more", "utf-8")
        planted.clean.add(name)
    clean = sorted(planted.clean)
    held_out, trained = [n for n in clean if _rank(n) < _LATE], [n for n in clean if _rank(n) >= _LATE]

    for number in range(3):
        for finding, content in (
            ("empty_file", b""),
            ("web_page", b"\n<!DOCTYPE html><html><title>404</title></html>"),
            ("damaged", bytes(range(7, 200)) * 9),
        ):
            path = folder / f"{finding}{number}.jpg"
            path.write_bytes(content)
            expected[finding].add(str(path))
    for ending in (".jpg", ".png", ".webp"):
        path = write(folder / f"cut{ending}", next(photos), quality=90)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        expected["truncated"].add(str(path))

    for turn in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = turn
        expected["cmyk"].add(add("cmyk", ".jpg", lambda p, x: Image.fromarray(x).convert("CMYK").save(p), "image"))
        expected["deep"].add(add("deep", ".png", _sixteen_bit, "image"))
        expected["palette"].add(add("pal", ".png", lambda p, x: Image.fromarray(x).quantize(64).save(p), "image"))
        expected["alpha"].add(add("alpha", ".png", _with_alpha, "image"))
        # another photograph, because one of the usual crops would be a copy of a rotated one
        sky = data.hubble_deep_field()[40 * turn : 40 * turn + SIDE, 90 * turn : 90 * turn + SIDE]
        note = lambda p, _, x=sky, e=exif: write(p, x, exif=e)  # noqa: E731
        expected["exif_rotation"].add(add("exif", ".jpg", note, "untitled"))
        expected["too_small"].add(add("small", ".png", lambda p, x: write(p, x[:200, :180]), "untitled"))
        expected["constant"].add(
            add("flat", ".png", lambda p, x, t=turn: write(p, np.full_like(x, 20 * t) + x // 60), "untitled")
        )
        expected["grey_in_colour"].add(add("grey", ".jpg", _grey, "untitled"))
        expected["blurred"].add(add("soft", ".png", lambda p, x: write(p, cv2.GaussianBlur(x, (0, 0), 4)), "stock"))
        wide = lambda p, _, t=turn: write(p, data.retina()[140 * t - 100 : 140 * t + 200, 100:1310])  # noqa: E731
        expected["extreme_aspect"].add(add("wide", ".png", wide, "stock"))
    for number in range(3):
        copy = lambda p, _, n=number: p.write_bytes((folder / trained[n]).read_bytes())  # noqa: E731
        expected["copy"].add(add("copy", ".png", copy, "stock"))
        edited = lambda p, _, n=number: _edited(folder / trained[n + 3], p, n)  # noqa: E731
        expected["near_copy"].add(add("near", ".jpg", edited, "stock"))
        leaked = lambda p, _, n=number: _edited(folder / held_out[n], p, n)  # noqa: E731
        expected["held_out_copy"].add(add("leak", ".jpg", leaked))
    for kind in ("image", "untitled", "stock"):
        expected["caption_repeated"] |= {
            p.with_suffix(e).name
            for p in folder.glob("*.txt")
            for e in (".png", ".jpg")
            if p.read_text("utf-8") == kind and p.with_suffix(e).exists()
        }

    for text in ("a <b>bold</b> cat", "salt &amp; pepper", "a dog<br/>in the rain"):
        expected["caption_markup"].add(add("html", ".jpg", write, text))
    for text in ("a cup, www.shop.example/cup?id=3", "see https://a.example/x.jpg", "http://b.example a tree"):
        expected["caption_url"].add(add("url", ".jpg", write, text))
    for text in ("a cafÃ© in the rain", "the kingâ€™s crown", "a caf\ufffd by night"):
        expected["caption_encoding"].add(add("letters", ".jpg", write, text))
    for text in (r"a \(round\) table", r"two lines\nof text", "C:\\pictures\\cat"):
        expected["caption_backslash"].add(add("slash", ".jpg", write, text))
    for _ in range(3):
        expected["caption_missing"].add(add("mute", ".jpg", write, None))
        expected["caption_empty"].add(add("blank", ".jpg", write, " \n"))
        first = add("Case", ".jpg", write)
        if not (folder / first.lower()).exists():  # a case-sensitive disk
            name = first.lower()
            write(folder / name, next(photos))
            (folder / name).with_suffix(".txt").write_text(f"small letters, {name}", "utf-8")
            expected["name_case"].add(name)
    return planted


def _sixteen_bit(path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(path), pixels[..., ::-1].astype(np.uint16) * 257)


def _with_alpha(path: Path, pixels: np.ndarray) -> None:
    write(
        path,
        np.dstack([pixels, np.tile(np.linspace(128, 255, pixels.shape[1]), (pixels.shape[0], 1))]).astype(np.uint8),
    )


def _grey(path: Path, pixels: np.ndarray) -> None:
    write(path, np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2))


def _edited(source: Path, target: Path, how: int) -> None:
    """Recompressed, smaller or brighter: still the same image, but of lower quality."""
    with Image.open(source) as image:
        pixels = np.asarray(image.convert("RGB"))
    if how == 1:
        pixels = np.ascontiguousarray(pixels[1:-1, 1:])
        pixels = cv2.resize(pixels, (SIDE, SIDE))
    elif how == 2:
        pixels = np.clip(pixels * 0.9 + 12, 0, 255).astype(np.uint8)
    write(target, cv2.GaussianBlur(pixels, (0, 0), 0.8), quality=60)


# -- pairs ------------------------------------------------------------------------------------------------------------


def _type(name: str) -> Callable[[np.ndarray], np.ndarray]:
    kind = registry.get(name)
    parameters = kind.resolve({})
    return lambda pixels: kind.extractor(pixels, **parameters)


def _depth_like(pixels: np.ndarray) -> np.ndarray:
    """A soft map without lines, like a depth map; made from lightness."""
    grey = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (0, 0), 2).astype(np.float32)
    grey = 255 * ((grey - grey.min()) / max(1.0, float(np.ptp(grey)))) ** 1.3
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


PAIR_TYPES: dict[str, tuple[Callable[[], Callable[[np.ndarray], np.ndarray]], bool]] = {
    "canny": (lambda: _type("canny"), True),
    "light_dark": (lambda: _type("light_dark"), True),
    "lineart": (lambda: _type("lineart"), False),
    "depth": (lambda: _depth_like, False),
}
"""Name -> its maps, and whether a note beside them declares the type."""
LINES = ("canny", "lineart")


def plant_pairs(folder: Path, name: str) -> Planted:
    """Images and maps of one type in two folders."""
    extract, declared = PAIR_TYPES[name][0](), PAIR_TYPES[name][1]
    planted, photos = Planted(folder), photographs()
    expected = planted.expected
    count = 0

    def add(
        kind: str, spoil: Callable[[np.ndarray], np.ndarray] | None = None, ending: str = ".png", tall: bool = False
    ) -> str:
        nonlocal count
        count += 1
        key, picture = f"{kind}{count:02}.png", next(photos)
        if tall:
            picture = np.ascontiguousarray(picture[:, 20:-20])
        map = extract(picture)
        write(folder / "images" / key, picture)
        (folder / "images" / key).with_suffix(".txt").write_text(f"a photograph, number {count}", "utf-8")
        if ending:
            write((folder / "conditions" / key).with_suffix(ending), spoil(map) if spoil else map, quality=85)
        return f"images/{key}"

    planted.clean = {add("clean", tall=number % 3 == 2) for number in range(14)}
    for finding, ways in {
        "map_inverted": (_invert,) * 3,
        "map_turned": (lambda m: m[:, ::-1], lambda m: m[::-1, ::-1], lambda m: np.rot90(m)),
        "map_shifted": tuple(lambda m, d=d: _move(m, *d) for d in SHIFTS),
        "map_blank": (np.zeros_like, lambda m: np.full_like(m, 255), lambda m: np.full_like(m, 128)),
        "map_size": tuple(lambda m, s=s: cv2.resize(m, (s, s)) for s in (128, 384, 512)),
        "map_aspect": (lambda m: m[:, 30:], lambda m: m[40:], lambda m: m[:, :-60]),
    }.items():
        for way in ways:
            expected[finding].add(add(finding, lambda m, way=way: np.ascontiguousarray(way(m))))
    if name in LINES:
        expected["map_lossy"] = {add("lossy", ending=".jpg") for _ in range(3)}
    for number in range(3):
        expected["map_missing"].add(str(folder / add("alone", ending="")))
        orphan = write(folder / "conditions" / f"orphan{number}.png", extract(next(photos)))
        expected["map_orphaned"].add(str(orphan))
        one, other = add("repeated"), add("repeated")
        first, second = (folder / "conditions" / Path(key).name for key in (one, other))
        second.write_bytes(first.read_bytes())
        expected["map_repeated"] |= {one, other}
    if declared:
        (folder / "condition.json").write_text(json.dumps({"type": name}), "utf-8")
    return planted


SHIFTS = ((6, -4), (0, 9), (-12, 3))
"""Pixels to the right and down."""


def _invert(map: np.ndarray) -> np.ndarray:
    return 255 - map


def _move(map: np.ndarray, dx: int, dy: int) -> np.ndarray:
    return cv2.warpAffine(map, np.array([[1, 0, dx], [0, 1, dy]], np.float64), (map.shape[1], map.shape[0]))


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
