"""Cache of drawn images, keyed by everything that an image depends on. The least recently used are removed first."""

from __future__ import annotations

import hashlib
import io
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from engine.disk.durable import atomic_write_bytes
from engine.disk.images import digest, load_rgb
from engine.disk.in_use import remove_file
from engine.errors import UserError
from engine.families.files import denoiser_files
from engine.workspace.paths import Workspace

MOST_FILES, MOST_BYTES = 4_000, 2**30
WEBP_QUALITY = 92
BASE_WEIGHTS = "diffusion_pytorch_model*.safetensors"


class ImageCache:
    """Images in a folder of the workspace, each named by its key."""

    def __init__(self, workspace: Workspace, most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES) -> None:
        self.folder = workspace.outputs / "compared"
        self._most = most_files, most_bytes

    def path(self, key: str) -> Path:
        """Path of the image with this key. It may not exist."""
        return self.folder / f"{key}.webp"

    def has(self, key: str) -> bool:
        """Whether the image is there. Marks it as used."""
        try:
            os.utime(self.path(key))
        except OSError:
            return False
        return True

    def put(self, key: str, image: Image.Image, lossless: bool = False) -> Path:
        """Stores an image and returns its path."""
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=WEBP_QUALITY, lossless=lossless)
        atomic_write_bytes(self.path(key), buffer.getvalue(), unique=True, flushed=False)
        return self.path(key)

    def open(self, key: str) -> Image.Image | None:
        """The image in RGB, or None if it is gone or damaged."""
        try:
            return load_rgb(self.path(key))
        except UserError:
            return None

    def trim(self, keep: frozenset[str] = frozenset()) -> int:
        """Removes images until the cache is within its limits, but none of ``keep``. Returns how many were removed."""
        files = []
        for path in self.folder.glob("*.webp"):
            try:
                about = path.stat()
            except FileNotFoundError:
                continue  # another window is trimming, too
            files.append((about.st_mtime_ns, about.st_size, path))
        count, size = len(files), sum(bytes_ for _, bytes_, _ in files)
        gone = 0
        for _, bytes_, path in sorted(files):
            if count <= self._most[0] and size <= self._most[1]:
                break
            if path.stem in keep:
                continue
            remove_file(path)
            count, size, gone = count - 1, size - bytes_, gone + 1
        return gone


def key_of(parts: dict[str, Any]) -> str:
    """The key of an image that depends on these JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def pixels_key(image: Image.Image) -> str:
    """A digest of the pixels alone, so a renamed or moved control image has the same key."""
    state = hashlib.blake2b(f"{image.size}{image.mode}".encode(), digest_size=16)
    state.update(image.tobytes())
    return state.hexdigest()


def weights_of(controlnet: Path) -> str:
    """A digest of a ControlNet's weights: a file, or the safetensors files of a folder."""
    files = [controlnet] if controlnet.is_file() else sorted(controlnet.glob("*.safetensors"))
    return "-".join(file_digest(path) for path in files)


def base_of(located: str) -> str:
    """Identifies a base: its name, and the size and time of the denoiser's files if they are on this disk."""
    path = Path(located)
    files = [file for file in denoiser_files(located) if path.is_file() or file.match(BASE_WEIGHTS)]
    stamps = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    return key_of({"base": path.name if files else located, "files": stamps})


def file_digest(path: Path) -> str:
    """``digest`` of a file, computed only once unless the file changes."""
    about = path.stat()
    return _remembered(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1024)
def _remembered(path: Path, size: int, changed: int) -> str:
    return digest(path)
