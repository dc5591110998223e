"""Any image that Pillow can read, whatever its metadata says; deep and transparent maps keep what they show."""

from __future__ import annotations

import io
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.disk.image_formats import EXTENSIONS, SIGNATURE_BYTES, format_of, orientation
from engine.disk.images import inspect, load_array, load_map, load_rgb, thumbnail
from engine.disk.transparency import GROUNDS
from engine.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
SIXES = [(0x112, 3, 1, struct.pack("<HH", 6, 0))]


def jpeg(entries: list[tuple[int, int, int, bytes]], size: tuple[int, int] = (80, 60)) -> bytes:
    """A JPEG of these (width, height) whose EXIF block has these entries: tag, type, count, four bytes of value."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    block = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        block += struct.pack("<HHI", tag, kind, count) + value
    segment = b"Exif\0\0" + block + struct.pack("<I", 0)
    raw = buffer.getvalue()
    return raw[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + raw[2:]


@pytest.mark.parametrize(
    ("entries", "turned"),
    [
        ([(0x112, 2, 2, b"6\0\0\0")], True),  # as text
        ([(0x112, 2, 2, b"x\0\0\0")], False),
        ([(0x112, 3, 1, struct.pack("<HH", 99, 0))], False),
        ([(0x112, 11, 1, struct.pack("<f", float("nan")))], False),
        ([(0x112, 3, 200, struct.pack("<HH", 6, 0))], False),  # more values than there are bytes
        ([*SIXES, (0x131, 11, 1, struct.pack("<f", 1.5))], True),
        ([*SIXES, (0x128, 11, 1, struct.pack("<f", 2.5))], True),
        ([*SIXES, (0x11A, 2, 3, b"72\0\0")], True),
        ([*SIXES, (0x8769, 2, 2, b"x\0\0\0")], True),
    ],
)
def test_metadata_never_breaks_an_image(
    tmp_path: Path, entries: list[tuple[int, int, int, bytes]], turned: bool
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(entries))
    size = (60, 80) if turned else (80, 60)
    seen = inspect(path)
    assert (seen.width, seen.height) == load_rgb(path).size == load_array(path).shape[1::-1] == size
    with Image.open(thumbnail(path, tmp_path / "small", 40)) as small:
        assert (small.width < small.height) == turned


def test_randomly_damaged_metadata_never_breaks_an_image(tmp_path: Path) -> None:
    whole = jpeg([*SIXES, (0x131, 2, 4, b"cam\0"), (0x128, 3, 1, struct.pack("<HH", 2, 0))])
    end = whole.index(b"\xff\xe0") if b"\xff\xe0" in whole[20:] else 60
    rng, path = np.random.default_rng(1), tmp_path / "a.jpg"
    for _ in range(60):
        bad = bytearray(whole)
        for place in rng.integers(12, end, 3):
            bad[place] = rng.integers(0, 256)
        path.write_bytes(bytes(bad))
        assert sorted(load_rgb(path).size) == [60, 80]
        assert inspect(path).width * inspect(path).height == 4800


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_every_orientation_in_every_format(tmp_path: Path, value: int, kind: str) -> None:
    shown = np.zeros((40, 60, 3), np.uint8)
    shown[:20, :30] = 255, 0, 0  # upper left of the image as it is meant to be seen
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[value]
    stored = Image.fromarray(shown)
    stored = stored if undo is None else stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = value
    path = tmp_path / f"a.{kind}"
    stored.save(path, exif=exif)
    got = np.asarray(load_rgb(path)).astype(int)
    assert got.shape == shown.shape and np.abs(got - shown).mean() < 6
    seen = inspect(path)
    assert (seen.width, seen.height) == (60, 40)


@pytest.mark.parametrize("ending", sorted(EXTENSIONS - {".ico", ".psd", ".mpo", ".sgi", ".pfm", ".qoi"}))
def test_every_ending_is_read(tmp_path: Path, ending: str) -> None:
    if ending in (".heic", ".heif", ".hif"):
        pytest.skip("an extra")
    path = tmp_path / f"a{ending}"
    picture = Image.new("1" if ending == ".pbm" else "L" if ending == ".pgm" else "RGB", (64, 48), 1)
    picture.save(path, {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG"}.get(ending))
    assert load_rgb(path).size == (64, 48)
    if ending not in (".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".bmp", ".dib", ".j2k"):  # no clear signature
        assert format_of(path.read_bytes()[:SIGNATURE_BYTES])


@pytest.mark.parametrize(("head", "words"), [
    (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC file, as saved by phones: save it as JPEG"),
    (b"\xff\x0a" + bytes(40), "JPEG XL file, which this app cannot read; save it as PNG or JPEG"),
])  # fmt: skip
def test_formats_that_are_not_read_are_named(tmp_path: Path, head: bytes, words: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(head)
    with pytest.raises(UserError) as caught:
        load_rgb(path)
    assert words in caught.value.why or ("HEIC" in words and find_spec("pillow_heif"))


def test_a_program_in_an_image_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n")
    with pytest.raises(UserError, match="not an image in a supported format"):
        load_rgb(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.linspace(500, 8000, 64 * 64).astype(np.uint16), (16, 255)),  # depth in millimetres
        (np.tile(np.arange(64), 64).astype(np.uint16), (0, 63)),  # labels
        (np.linspace(0, 65535, 64 * 64).astype(np.uint16), (0, 255)),
        (np.linspace(0, 9.5, 64 * 64).astype(np.float32), (0, 255)),  # metres
        (np.linspace(0, 1, 64 * 64).astype(np.float32), (0, 255)),
        (np.full(64 * 64, 7, np.float32), (7, 7)),
        (np.array([np.nan, np.inf, -np.inf, *[4.0] * (64 * 64 - 4), 2.5], np.float32), (0, 255)),
        (np.linspace(0, 1e6, 64 * 64).astype(np.int32), (0, 255)),
    ],
)
def test_maps_in_real_units_are_stretched_and_labels_stay(
    tmp_path: Path, values: np.ndarray, shown: tuple[int, int]
) -> None:
    path = tmp_path / ("a.png" if values.dtype == np.uint16 else "a.tif")
    Image.fromarray(values.reshape(64, 64)).save(path)
    grey = np.asarray(load_map(path))[..., 0]
    assert (grey.min(), grey.max()) == shown


WHITE, BLACK, MID, YELLOW, PALE = (255, 255, 255), (0, 0, 0), (128, 128, 128), (255, 255, 90), (205, 225, 255)


@pytest.mark.parametrize(
    ("lines", "ground", "before"),
    [
        ((WHITE,), 0, 0),
        ((BLACK,), 255, 255),
        ((WHITE, YELLOW), 0, 255),
        ((PALE,), 0, 255),
        ((PALE, (255, 240, 240), YELLOW), 0, 255),
        ((WHITE, BLACK), 128, 255),
        ((WHITE, (30, 30, 40), YELLOW), 128, 255),
        ((WHITE, BLACK, MID), 64, 255),
        (((255, 0, 0), (0, 0, 255), (0, 255, 0)), 255, 255),
        (((0, 0, 255), WHITE), 0, 255),
    ],
)
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "webp"])
def test_white_lines_on_nothing_stay_visible_and_black_ones_too(
    tmp_path: Path, kind: str, lines: tuple[tuple[int, int, int], ...], ground: int, before: int
) -> None:
    layer = np.zeros((64, 64, 4), np.uint8)
    for number, colour in enumerate(lines):
        layer[8 + 12 * number : 12 + 12 * number] = *colour, 255
    grey = all(len(set(colour)) == 1 for colour in lines)
    path = tmp_path / ("map.webp" if kind == "webp" else "map.png")
    image = Image.fromarray(layer)
    image = image.quantize(16) if kind == "P" else image.convert("LA") if kind == "LA" and grey else image
    image.save(path, lossless=True)
    shown = np.asarray(load_map(path)).astype(int)
    assert abs(int(shown[0, 0, 0]) - ground) < 3
    for number in range(len(lines)):
        assert np.abs(shown[10 + 12 * number, 5] - shown[0, 0]).max() >= 48, f"line {number} is lost"
    assert np.asarray(load_map(path, old_ground=True))[0, 0, 0] == before
    assert inspect(path, is_map=True).ground == GROUNDS[ground]


def test_images_that_were_cut_out_lie_on_white_unless_they_are_light_themselves(tmp_path: Path) -> None:
    layer = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    layer[..., 3] = 0
    layer[16:48, 16:48, 3] = 255
    for name, light, ground in (("any", 0, 255), ("light", 235, 0)):
        layer[..., :3] = np.maximum(layer[..., :3], light)
        Image.fromarray(layer).save(tmp_path / f"{name}.png")
        assert np.asarray(load_rgb(tmp_path / f"{name}.png"))[0, 0, 0] == ground
        assert np.asarray(load_array(tmp_path / f"{name}.png", old_ground=True))[0, 0, 0] == 255
    Image.fromarray(np.zeros((64, 64, 4), np.uint8)).save(tmp_path / "nothing.png")
    assert np.asarray(load_rgb(tmp_path / "nothing.png")).min() == 255


def test_an_orientation_is_one_of_eight() -> None:
    assert orientation(Image.new("RGB", (2, 2))) == 1
