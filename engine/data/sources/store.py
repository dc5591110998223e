"""The folder that fetched images go into: files that were read to their end, and one line about each.

    pictures/ab/abcdef0123456789.jpg       named after what it was asked by, so that it is found again
    pictures/ab/abcdef0123456789.map.png   its condition map, where the source has one
    pictures/metadata.jsonl                file_name, text, url and conditioning_image_file_name

A line is written after its files are in place: what has a line is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from engine.data.layouts.listed import METADATA
from engine.disk.durable import atomic_write
from engine.disk.images import EXTENSIONS, inspect, opened
from engine.errors import UserError

ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif", "MPO": ".jpg"}
assert set(ENDINGS.values()) <= EXTENSIONS


class Refused(Exception):
    """An image that was not kept; the text is the reason in words."""


def name_for(asked_by: str) -> str:
    """16 hexadecimal digits for an address or a row."""
    return hashlib.blake2b(asked_by.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Store:
    """Used in one thread, as a context manager: the list is open in between.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*/.*.tmp"):  # of a try that was ended by force
            left.unlink(missing_ok=True)
        self._present = self._read_list()
        self._list = (folder / METADATA).open("a", encoding="utf-8")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._list.close()

    def __len__(self) -> int:
        return len(self._present)

    def has(self, name: str) -> bool:
        return name in self._present

    def _read_list(self) -> set[str]:
        """Names in the list. A last line that was cut off by a crash is taken away."""
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

    def check(self, name: str, data: bytes, suffix: str = "", min_size: tuple[int, int] = (0, 0)) -> str:
        """Put a file in place once it was read to its end; returns its name in the list. Any thread may call it.

        Raises:
            Refused: it is no usable image. OSError: it cannot be written.
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
                raise Refused("a kind of image that is not known here")
            if seen.width < min_size[0] or seen.height < min_size[1]:
                raise Refused("smaller than asked for")
            target = place / f"{name}{suffix}{ending}"
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target.relative_to(self.folder).as_posix()

    def note(self, name: str, file_name: str, caption: str, address: str = "", condition: str = "") -> None:
        """The line of an image whose files are in place."""
        row: dict[str, Any] = {"file_name": file_name, "text": caption}
        if address:
            row["url"] = address
        if condition:
            row["conditioning_image_file_name"] = condition
        # A lone surrogate, as broken encodings leave it, is no text that a file can hold.
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
        self._list.write(line + "\n")
        self._list.flush()
        self._present.add(name)
