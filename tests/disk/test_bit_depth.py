"""Images with more than 8 bits: what Pillow would do to them without a word."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from engine.disk.images import inspect, load_map, load_rgb

RAMP = np.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3)


def saved(path: Path, values: np.ndarray) -> Path:
    """A 16-bit RGB(A) image in the format of the path's ending."""
    if path.suffix == ".ppm":
        path.write_bytes(b"P6\n64 64\n65535\n" + values[..., :3].astype(">u2").tobytes())
    else:
        order = [2, 1, 0, 3][: values.shape[2]]
        assert cv2.imwrite(str(path), np.ascontiguousarray(values[..., order]))
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "ppm", "jp2"])
@pytest.mark.parametrize(
    ("top", "words", "brightest"),
    [
        (65_535, "divided by 257 (65,535 becomes 255)", 255),
        (8_000, "each stretched so that its largest value becomes 255", 255),
        (60, "values up to 255, which stay as they are", 60),
    ],
)
def test_16_bit_rgb_maps_follow_the_rule_of_grey_ones(
    tmp_path: Path, ending: str, top: int, words: str, brightest: int
) -> None:
    path = saved(tmp_path / f"map.{ending}", np.round(RAMP * top).astype(np.uint16))
    assert inspect(path, is_map=True).depth == f"in 16 bits a channel, {words}"
    made = np.asarray(load_map(path))
    assert made.max() == pytest.approx(brightest, abs=1) and made.shape == (64, 64, 3)
    assert np.abs(made.astype(float) - RAMP * brightest).max() <= 2, "channels in their order"


@pytest.mark.parametrize("ending", ["png", "tif", "ppm"])
def test_16_bit_rgb_images_are_told_and_read_by_their_upper_8_bits(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path / f"photo.{ending}", np.round(RAMP * 65_535).astype(np.uint16))
    assert inspect(path).depth == "in 16 bits a channel, of which the upper 8 are used"
    assert np.abs(np.asarray(load_rgb(path)).astype(float) - RAMP * 255).max() <= 2


def test_16_bit_transparency_stays(tmp_path: Path) -> None:
    values = np.zeros((64, 64, 4), np.uint16)
    values[16:48, 16:48] = (4000, 2000, 0, 65_535)
    path = saved(tmp_path / "map.png", values)
    assert "stretched" in inspect(path, is_map=True).depth and inspect(path, is_map=True).ground
    made = np.asarray(load_map(path))
    assert tuple(made[32, 32]) == (255, 128, 0) and len(np.unique(made[0])) == 1


def test_a_turned_16_bit_rgb_map_is_told_as_it_is_read(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.png", np.round(RAMP * 65_535).astype(np.uint16)[:40])
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = exif.tobytes().removeprefix(b"Exif\0\0")
    data, at = plain.read_bytes(), 33  # after the header
    body = b"eXIf" + chunk
    crc = zlib.crc32(body).to_bytes(4, "big")
    turned = tmp_path / "turned.png"
    turned.write_bytes(data[:at] + len(chunk).to_bytes(4, "big") + body + crc + data[at:])
    assert inspect(turned, is_map=True).depth == "in 16 bits a channel, of which the upper 8 are used"
    assert load_map(turned).size == (40, 64)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot write AVIF")
def test_ordinary_images_have_no_depth(tmp_path: Path) -> None:
    pixels = Image.fromarray(np.round(RAMP * 255).astype(np.uint8))
    for ending in ("png", "jpg", "webp", "tif", "bmp", "gif", "ppm", "jp2", "avif"):
        pixels.save(tmp_path / f"a.{ending}")
        assert inspect(tmp_path / f"a.{ending}", is_map=True).depth == inspect(tmp_path / f"a.{ending}").depth == ""
