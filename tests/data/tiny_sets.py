"""The files of a set that the app offers to download, in small, as the hub has them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping

import numpy as np

from tests.data.sources.test_urls import png


def fill50k(photos: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Zips of three images and of their maps, the list that joins them, and files that are not wanted."""
    names = ("coffee", "chelsea", "rocket")
    rows = [
        {"text": f"circle {n}", "image": f"images/{n}.png", "conditioning_image": f"conditioning_images/{n}.png"}
        for n in range(len(names))
    ]
    return {
        "README.md": b"# circles",
        "fill50k.py": b"raise SystemExit('never run')",
        "train.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "images.zip": _zipped("images", [png(photos[name], (64, 64)) for name in names]),
        "conditioning_images.zip": _zipped(
            "conditioning_images", [png(255 - photos[name], (64, 64)) for name in names]
        ),
    }


def _zipped(folder: str, images: list[bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(f"{folder}/{number}.png", image)
    return data.getvalue()
