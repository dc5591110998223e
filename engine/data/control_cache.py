"""Condition maps ready for the steps: as pixels (map_cache.py), or as the latents that some control nets read.

    cache/KEY/control-MAPS-WxH-00000.safetensors   control: (n, C, h, w) fp16; the same crops per file as the latents of
                                                   the images, in the same order
    cache/KEY/control-MAPS.json                    written last, with the checksum of each file, and how much of thin
                                                   lines is left (vae_round_trip.py)
    cache/KEY/control-MAPS.png                     some maps, and what the VAE decodes of them

KEY is that of the images' latents, with which they share the crops and the VAE. MAPS is a hash of the maps, see
``map_cache.map_key``, and of the family, which decides how they are encoded. They are encoded once, so that no VAE
stays in memory while a run trains.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.conditions import registry
from engine.data import map_cache
from engine.data.cache import ROOM_TO_SPARE, SHARD, TrainingCache, cropped_map, entries
from engine.data.cache_files import describe, save_tensors, verify
from engine.data.crop_plan import CropPlan, Size
from engine.data.dataset import Dataset
from engine.data.encode import EncoderBatches
from engine.data.lines_kept import lines_kept
from engine.data.map_cache import MapCache, existing_map, forget_others, map_key
from engine.data.samples import Sample
from engine.data.vae_round_trip import MEASURED, decoded, finding, save_pairs
from engine.disk.in_use import remove_file
from engine.disk.space import require_space
from engine.disk.tensor_file import Rows
from engine.families.base import Family
from engine.jobs.control import OnProgress, Token
from engine.machine.device import empty_cache
from engine.machine.memory import none_if_out_of_memory


class ControlCache:
    """Reads encoded condition maps by row of the sample and variant of its crop."""

    def __init__(self, folder: Path, key: str, samples: Sequence[Sample], plan: CropPlan) -> None:
        self._places: dict[tuple[int, int], tuple[Size, int]] = {}
        self._shards: dict[Size, list[Rows]] = {}
        for size, stored in entries(samples, plan).items():
            self._places.update({entry: (size, place) for place, entry in enumerate(stored)})
            count = -(-len(stored) // SHARD)
            self._shards[size] = [Rows(_path(folder, key, size, number), "control") for number in range(count)]

    def read(self, row: int, variant: int = 0) -> np.ndarray:
        """float32 (C, h, w), scaled as the control net reads them."""
        size, place = self._places[row, variant]
        return self._shards[size][place // SHARD].read([place % SHARD])[0].astype(np.float32)


def open_or_build(
    cache: TrainingCache,
    family: Family,
    base: str,
    dataset: Dataset,
    samples: Sequence[Sample],
    plan: CropPlan,
    device: torch.device,
    token: Token,
    progress: OnProgress,
    batch: int = 8,
    on_message: Callable[[str], None] = lambda message: None,
) -> MapCache | ControlCache | None:
    """Opens the cached maps of these samples and makes what is missing. Finished files of an earlier attempt are kept.

    Args:
        batch: initial number of maps that are encoded together. It is halved when memory runs out, and ``on_message``
            is called.

    Returns:
        None if the disk has no room for pixels. Training then reads the original map files.

    Raises:
        UserError: a map is gone or cannot be read, or memory is not enough to encode one.
        DiskFull, OSError: the disk has no room for encoded maps; finished parts are kept. Cancelled: by the token.
    """
    if not family.facts.control_is_encoded:
        return map_cache.open_or_build(cache, dataset, samples, plan, token, progress)
    folder, key = cache.folder, _key(family, dataset, samples)
    done = folder / f"control-{key}.json"
    if not verify(done, token, progress):
        missing = [
            (_path(folder, key, size, number), size, stored[first : first + SHARD])
            for size, stored in entries(samples, plan).items()
            for number, first in enumerate(range(0, len(stored), SHARD))
        ]
        paths = [path for path, _, _ in missing]
        missing = [one for one in missing if not one[0].exists()]
        space = family.latent_space(base)
        needed = sum(2 * math.prod(space.shape(*size)) * len(part) for _, size, part in missing)
        require_space(folder, needed + ROOM_TO_SPARE, "The encoded condition maps")
        batches = EncoderBatches(batch, "condition maps", on_message)
        forget_others(folder, "control", key)
        for old in folder.glob("control-*.png"):
            if not old.with_suffix(".json").exists():
                remove_file(old)
        picture = folder / f"control-{key}.png"
        kept = _encode(cache, family, base, dataset, samples, device, token, progress, batches, missing, picture)
        empty_cache()
        about = {"count": len(samples), "made": time.strftime("%Y-%m-%d %H:%M:%S"), "lines_kept": kept}
        describe(done, about, paths)
    kept = json.loads(done.read_text(encoding="utf-8")).get("lines_kept", [])  # older caches were not measured
    if words := finding(kept, done.with_suffix(".png")):
        on_message(words)
    return ControlCache(folder, key, samples, plan)


@torch.no_grad()
def _encode(
    cache: TrainingCache,
    family: Family,
    base: str,
    dataset: Dataset,
    samples: Sequence[Sample],
    device: torch.device,
    token: Token,
    progress: OnProgress,
    batches: EncoderBatches,
    missing: Sequence[tuple[Path, Size, list[tuple[int, int]]]],
    picture: Path,
) -> list[float]:
    """Writes files that are missing: for each its path, the size of its crops, and their (row, variant).

    Args:
        picture: to write the first maps to, before and after the VAE.

    Returns:
        ``LinesKept.pixels`` of those that are maps of lines.
    """
    spec = dataset.condition
    assert spec is not None, "a run starts only with condition maps"
    nearest = registry.get(spec.type).categorical
    vae: Any = batches.load(lambda: family.control_vae(base, device))
    done, total = 0, sum(len(part) for _, _, part in missing)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    looked: list[bool] = []

    def encode(some: Sequence[tuple[int, int]]) -> torch.Tensor:
        token.raise_if_cancelled()
        asked = ((samples[row], cache.crop(row, variant)) for row, variant in some)
        maps = [cropped_map(existing_map(dataset, one), crop, nearest, one.old_ground) for one, crop in asked]
        encoded = family.encode_control(torch.from_numpy(np.stack(maps)).to(device), vae)
        if not looked:  # once: where memory is not enough to decode, the maps are encoded all the same
            looked.append(True)
            again = none_if_out_of_memory(lambda: decoded(family, vae, encoded[:MEASURED]))
            seen.extend(zip(maps, again if again is not None else (), strict=False))
        return encoded.half().cpu()

    for path, _, part in missing:
        rows: list[torch.Tensor] = []
        for encoded in batches.over(part, encode):
            rows.append(encoded)
            done += len(encoded)
            progress(done, total, "Encoding condition maps")
        save_tensors(path, {"control": torch.cat(rows)})
    if seen:
        save_pairs(picture, [one for one, _ in seen], [again for _, again in seen])
    return [kept.pixels for one, again in seen if (kept := lines_kept(one, again)) is not None]


def _key(family: Family, dataset: Dataset, samples: Sequence[Sample]) -> str:
    return hashlib.blake2b(f"{family.name}:{map_key(dataset, samples)}".encode(), digest_size=8).hexdigest()


def _path(folder: Path, key: str, size: Size, number: int) -> Path:
    return folder / f"control-{key}-{size[0]}x{size[1]}-{number:05d}.safetensors"
