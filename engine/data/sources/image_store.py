"""The folder for downloaded or unpacked images: files that were read completely, and a list with one line for each.

    pictures/ab/abcdef0123456789.jpg       named by a hash of its address or row, so that it is found again
    pictures/ab/abcdef0123456789.map.png   its condition map, if the source has one
    pictures/metadata.jsonl                file_name, text, url and conditioning_image_file_name

A line is written after its files, so everything in the list is complete.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

from engine.data.layouts.listed import METADATA
from engine.disk.durable import atomic_write
from engine.disk.image_formats import FORMATS, HEIF_EXTENSIONS
from engine.disk.images import EXTENSIONS, inspect, opened
from engine.disk.in_use import clear, rename
from engine.errors import UserError

ENDINGS = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif", "MPO": ".jpg",
    "DIB": ".dib", "AVIF": ".avif", "JPEG2000": ".jp2", "PPM": ".ppm", "PCX": ".pcx", "ICO": ".ico", "QOI": ".qoi",
    "SGI": ".sgi", "PSD": ".psd", "TGA": ".tga", "HEIF": ".heic",
}  # fmt: skip
"""Pillow's name of a format -> the ending of its files."""
assert ENDINGS.keys() >= set(FORMATS)
assert set(ENDINGS.values()) <= EXTENSIONS | HEIF_EXTENSIONS


class Refused(Exception):
    """An image was not stored. The text is the reason."""


def name_for(address: str) -> str:
    """16 hexadecimal digits for an address or a row."""
    return hashlib.blake2b(address.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class ImageStore:
    """Use it in one thread, as a context manager, which keeps the list open.

    Raises:
        OSError: the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*/.*.tmp"):  # leftovers of a killed process
            clear(left)
        self._present = self._read_list()
        self._list = (folder / METADATA).open("a", encoding="utf-8")

    def __enter__(self) -> ImageStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._list.close()

    def __len__(self) -> int:
        return len(self._present)

    def has(self, name: str) -> bool:
        return name in self._present

    def _read_list(self) -> set[str]:
        """The names in the list. Removes a last line that was cut off by a crash."""
        path = self.folder / METADATA
        if not path.exists():
            return set()
        present: set[str] = set()
        with (
            atomic_write(path) as temporary,
            path.open(encoding="utf-8") as old,
            temporary.open("w", encoding="utf-8") as new,
        ):
            for line in old:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                present.add(Path(row["file_name"]).stem)
                new.write(json.dumps(row, ensure_ascii=False) + "\n")
        return present

    def put_image(self, name: str, data: bytes, suffix: str = "", min_size: tuple[int, int] = (0, 0)) -> str:
        """Stores an image after reading it completely. Returns its name for the list. Any thread may call this.

        Raises:
            Refused: it is not a usable image. OSError: it cannot be written.
        """
        place = self.folder / name[:2]
        place.mkdir(exist_ok=True)
        temporary = place / f".{uuid.uuid4().hex}.tmp"
        try:
            temporary.write_bytes(data)
            try:
                seen = inspect(temporary, min_side=1)
                with opened(temporary) as image:
                    ending = ENDINGS.get(image.format or "")
            except UserError as error:
                raise Refused(error.why.rstrip(".")) from error
            if ending is None:
                raise Refused("an unknown image format")
            if seen.width < min_size[0] or seen.height < min_size[1]:
                raise Refused("smaller than the minimum size")
            target = place / f"{name}{suffix}{ending}"
            rename(temporary, target)
        finally:
            clear(temporary)
        return target.relative_to(self.folder).as_posix()

    def add_row(self, name: str, file_name: str, caption: str, address: str = "", condition: str = "") -> None:
        """Adds the line of an image whose files are stored."""
        row: dict[str, Any] = {"file_name": file_name, "text": caption}
        if address:
            row["url"] = address
        if condition:
            row["conditioning_image_file_name"] = condition
        # Lone surrogates, from broken encodings, cannot be written to a file.
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
        self._list.write(line + "\n")
        self._list.flush()
        self._present.add(name)
