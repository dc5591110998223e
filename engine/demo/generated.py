"""Writes generated pairs in the layout of metadata.jsonl with maps, which ``engine.data.scan`` reads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.data.layouts.listed import METADATA
from engine.data.recognized import CONDITION_NOTE
from engine.demo.shapes import Scene, draw
from engine.disk.durable import atomic_write_bytes, atomic_write_text
from engine.disk.in_use import remove_file
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

SCENES = "scenes.json"


def write_set(
    folder: Path | str,
    kind: str,
    scene_of: Callable[[np.random.Generator], Scene],
    condition_of: Callable[[Scene, np.ndarray], np.ndarray],
    condition: tuple[str, dict[str, Any]],
    count: int,
    size: int,
    seed: int,
    progress: OnProgress | None,
    token: CancelToken | None,
) -> Path:
    """Writes images/, conditions/ (PNG), metadata.jsonl, scenes.json and condition.json. Returns the folder.

    Sample n depends on (seed, n) only, so a larger count adds to existing images, and a call after a stop draws only
    what is missing. With another kind, size or seed all images are drawn again.
    """
    folder = Path(folder)
    recipe = {"kind": kind, "size": size, "seed": seed}
    _clear(folder, recipe)
    scenes = {f"images/{n:06}.png": scene_of(np.random.default_rng([seed, n])) for n in range(1, count + 1)}
    rows = [
        {"file_name": key, "conditioning_image_file_name": _condition_key(key), "text": scene.caption}
        for key, scene in scenes.items()
    ]
    listing = {"recipe": recipe, "scenes": {key: asdict(scene) for key, scene in scenes.items()}}
    note = {"type": condition[0], "parameters": condition[1]}
    atomic_write_text(folder / SCENES, json.dumps(listing, indent=1))
    for done, (key, scene) in enumerate(scenes.items(), 1):
        if token:
            token.raise_if_cancelled()
        if not (folder / key).exists() or not (folder / _condition_key(key)).exists():
            image = draw(scene, size)
            _write_png(folder / _condition_key(key), condition_of(scene, image))
            _write_png(folder / key, image)
        if progress:
            progress(done, count, key)
    atomic_write_text(folder / CONDITION_NOTE, json.dumps(note, indent=1))
    atomic_write_text(folder / METADATA, "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def load_scenes(folder: Path | str) -> dict[str, Scene]:
    """The scene of every sample of a generated set, by the sample's key."""
    try:
        listing = json.loads((Path(folder) / SCENES).read_text(encoding="utf-8"))
        return {key: Scene(**{**scene, "centre": tuple(scene["centre"])}) for key, scene in listing["scenes"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{Path(folder) / SCENES} cannot be read.", f"Cause: {error}.", "Make the demo set again."
        ) from error


def _clear(folder: Path, recipe: dict[str, Any]) -> None:
    """Removes images of another recipe. Refuses a folder with other files."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        before = json.loads((folder / SCENES).read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} contains other files.",
            f"A demo set needs an empty folder or the folder of an older demo set ({SCENES} is missing).",
            "Choose another folder.",
        ) from error
    if before != recipe:
        for place in (folder / "images", folder / "conditions"):
            for path in place.glob("[0-9]*.png"):
                remove_file(path)


def _condition_key(key: str) -> str:
    return key.replace("images/", "conditions/", 1)


def _write_png(path: Path, image: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    atomic_write_bytes(path, buffer.getvalue(), flushed=False)
