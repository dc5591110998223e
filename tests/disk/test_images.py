from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.disk.images import load_array, load_rgb
from engine.errors import UserError


@pytest.mark.parametrize("at_least", [None, 100, 256, 400])
@pytest.mark.parametrize("name", ["plain.jpg", "über.jpg", "grey.jpg", "cmyk.jpg", "turned.jpg", "alpha.png"])
def test_the_fast_path_gives_the_same_image(
    tmp_path: Path, photos: dict[str, np.ndarray], name: str, at_least: int | None
) -> None:
    image = Image.fromarray(photos["coffee"])
    exif = Image.Exif()
    exif[0x0112] = 6 if name == "turned.jpg" else 1
    mode = {"grey.jpg": "L", "cmyk.jpg": "CMYK", "alpha.png": "RGBA"}.get(name, "RGB")
    image.convert(mode).save(tmp_path / name, quality=95, exif=exif)
    slow, fast = np.asarray(load_rgb(tmp_path / name, at_least)), load_array(tmp_path / name, at_least)
    assert slow.shape == fast.shape and np.abs(slow.astype(int) - fast).mean() < 0.5
    assert at_least is None or min(fast.shape[:2]) >= at_least
    if name == "plain.jpg" and at_least == 100:
        assert fast.shape == (100, 150, 3)


def test_a_truncated_photograph_is_an_error_not_grey_bands(tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    Image.fromarray(photos["coffee"]).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        load_array(tmp_path / "a.jpg")
