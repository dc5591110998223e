"""Condition maps cropped and resized once, so that a training step decodes no image files.

    cache/KEY/maps-MAPS-WxH-00000.safetensors   uint8, one crop per row, in the order of the latents
    cache/KEY/maps-MAPS.json                    written last, with the checksum of each file

KEY is that of the latents, with which the maps share their crops. MAPS is a hash: for maps that came with the images,
of their content; for maps made by the app, of what they depend on (the image's content, type and parameters) and of
their files' size and time, so that a map edited by hand is read again. A file stores one channel if all three are
equal, and one bit per pixel if all is black or white: a Canny map of 512 px takes 32 KiB, depth 256, colour 768.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.conditions import registry
from engine.data.cache import TrainingCache, add_grounds, cropped_map, entries
from engine.data.cache_files import describe, save_tensors, verify
from engine.data.crop_plan import CropPlan, Size
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.disk.in_use import remove_file
from engine.disk.space import free_bytes
from engine.disk.tensor_file import Rows
from engine.errors import DataGone
from engine.jobs.control import OnProgress, Token

SHARD_BYTES = 64 * 2**20  # of RGB pixels, so that writing a file needs little memory
KEPT = 2  # sets of maps for the same images, for switching between two conditions
SPARE_DISK = 2 * 2**30
READERS = 4


class MapCache:
    """Reads condition maps by row of the sample and variant of its crop."""

    def __init__(self, folder: Path, key: str, samples: Sequence[Sample], plan: CropPlan) -> None:
        self._places: dict[tuple[int, int], tuple[Size, int]] = {}
        self._shards: dict[Size, list[_Shard]] = {}
        for size, stored in entries(samples, plan).items():
            self._places.update({entry: (size, place) for place, entry in enumerate(stored)})
            count = -(-len(stored) // in_a_shard(size))
            self._shards[size] = [_Shard(_path(folder, key, size, number), size) for number in range(count)]

    def read(self, row: int, variant: int = 0) -> np.ndarray:
        """uint8 RGB (height, width, 3)."""
        size, place = self._places[row, variant]
        number, place = divmod(place, in_a_shard(size))
        return self._shards[size][number].read(place)


class _Shard:
    """One file."""

    def __init__(self, path: Path, size: Size) -> None:
        self._rows = Rows(path, "maps")
        self._packed = len(self._rows.shape) == 3
        self._width = size[0]

    def read(self, place: int) -> np.ndarray:
        pixels = self._rows.read([place])[0]
        if self._packed:
            pixels = np.unpackbits(pixels, axis=1, count=self._width)[..., None] * np.uint8(255)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def in_a_shard(size: Size) -> int:
    """Number of maps of this size in a file."""
    return max(1, SHARD_BYTES // (3 * size[0] * size[1]))


def most_bytes(samples: Sequence[Sample], plan: CropPlan) -> int:
    """Disk space of the maps if all are RGB."""
    return sum(3 * width * height * len(stored) for (width, height), stored in entries(samples, plan).items())


def open_or_build(
    cache: TrainingCache,
    dataset: Dataset,
    samples: Sequence[Sample],
    plan: CropPlan,
    token: Token,
    progress: OnProgress,
) -> MapCache | None:
    """Opens the cached maps of these samples and makes what is missing. Finished files of an earlier attempt are kept.

    Returns:
        None if there is not enough disk space. Training then reads the original map files.

    Raises:
        UserError: a map is gone or cannot be read. Cancelled: the token was cancelled.
    """
    folder, key = cache.folder, map_key(dataset, samples)
    done = folder / f"maps-{key}.json"
    if not verify(done, token, progress):
        if free_bytes(folder) < most_bytes(samples, plan) + SPARE_DISK:
            return None
        forget_others(folder, "maps", key)
        make_all(cache, key, dataset, samples, plan, token, progress)
        about = {"count": len(samples), "made": time.strftime("%Y-%m-%d %H:%M:%S")}
        describe(done, about, _paths(folder, key, samples, plan))
    return MapCache(folder, key, samples, plan)


def map_key(dataset: Dataset, samples: Sequence[Sample]) -> str:
    """A hash of the maps' contents, and of how they are resized.

    Raises:
        UserError: a map is gone.
    """
    spec = dataset.condition
    assert spec is not None, "a run starts only with condition maps"
    state = hashlib.blake2b(digest_size=8)
    state.update(json.dumps([1, registry.get(spec.type).categorical]).encode())
    add_grounds(state, samples)
    for sample in samples:
        if spec.provided and sample.condition_digest:
            facts: list[Any] = [sample.key, sample.condition_digest]
        else:
            stat = existing_map(dataset, sample).stat()
            facts = [sample.key, sample.digest, spec.fingerprint, stat.st_size, stat.st_mtime_ns]
        state.update(json.dumps(facts).encode())
    return state.hexdigest()


def existing_map(dataset: Dataset, sample: Sample) -> Path:
    """The path of the sample's map.

    Raises:
        DataGone: the map, or the disk that it was on, is gone.
    """
    path = dataset.condition_path(sample)
    if path.exists():
        return path
    for folder in (dataset.source, dataset.folder):
        if path.is_relative_to(folder) and not folder.exists():
            raise DataGone(
                f"The folder of the dataset {dataset.name} is missing.",
                f"{folder} no longer exists, and neither does the condition map of {sample.key}.",
                "Connect its disk, or put the folder back where it was, then resume. Nothing else is lost.",
            )
    raise DataGone(
        f"The condition map of {sample.key} is missing.",
        f"{path} no longer exists.",
        "Make all maps again on the Conditions tab, then resume. Nothing else is lost.",
    )


def make_all(
    cache: TrainingCache,
    key: str,
    dataset: Dataset,
    samples: Sequence[Sample],
    plan: CropPlan,
    token: Token,
    progress: OnProgress,
) -> None:
    spec = dataset.condition
    assert spec is not None
    nearest = registry.get(spec.type).categorical
    by_size = entries(samples, plan)
    done, total = 0, sum(len(stored) for stored in by_size.values())

    def read(entry: tuple[int, int]) -> np.ndarray:
        token.raise_if_cancelled()
        row, variant = entry
        sample = samples[row]
        return cropped_map(existing_map(dataset, sample), cache.crop(row, variant), nearest, sample.old_ground)

    with ThreadPoolExecutor(READERS, thread_name_prefix="maps") as pool:
        for size, stored in by_size.items():
            step = in_a_shard(size)
            for number, first in enumerate(range(0, len(stored), step)):
                path, part = _path(cache.folder, key, size, number), stored[first : first + step]
                if not path.exists():
                    save_tensors(path, {"maps": torch.from_numpy(smallest(np.stack(list(pool.map(read, part)))))})
                done += len(part)
                progress(done, total, "Preparing condition maps")


def smallest(maps: np.ndarray) -> np.ndarray:
    """Compacts uint8 (n, h, w, 3): to one channel if all are equal, (n, h, w, 1), or to bits, (n, h, ceil(w / 8))."""
    grey = maps[..., :1]
    if not (maps == grey).all():
        return maps
    levels = grey[..., 0]
    if ((levels == 0) | (levels == 255)).all():
        return np.packbits(levels, axis=2)
    return np.ascontiguousarray(grey)


def _paths(folder: Path, key: str, samples: Sequence[Sample], plan: CropPlan) -> list[Path]:
    return [
        _path(folder, key, size, number)
        for size, stored in entries(samples, plan).items()
        for number in range(-(-len(stored) // in_a_shard(size)))
    ]


def _path(folder: Path, key: str, size: Size, number: int) -> Path:
    return folder / f"maps-{key}-{size[0]}x{size[1]}-{number:05d}.safetensors"


def forget_others(folder: Path, kind: str, key: str) -> None:
    """Deletes all but the newest sets, and leftovers of cancelled attempts: they are large, and quickly made again.

    Args:
        kind: of the files: "maps", or "control" for encoded ones.
        key: of the set that is about to be made.
    """
    finished = sorted(folder.glob(f"{kind}-*.json"), key=lambda path: path.stat().st_mtime_ns)
    for old in finished[: max(0, len(finished) - KEPT + 1)]:
        remove_file(old)
    kept = {f"{kind}-{key}", *(path.stem for path in folder.glob(f"{kind}-*.json"))}
    for path in folder.glob(f"{kind}-*.safetensors*"):
        if "-".join(path.name.split("-")[:2]) in kept:
            continue
        try:
            path.unlink()
        except OSError:  # Windows does not delete files that are being read; the next call will
            continue
