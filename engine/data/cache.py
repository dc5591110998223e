"""Latents and text embeddings, computed once before training.

    cache/KEY/latents-WxH-00000.safetensors   mean, logvar: (n, 4, h, w) fp16; box: (n, 4), the crop in the image's
                                              pixels; SHARD crops of one size per file, in the order of the samples
    cache/KEY/cache.json                      written after all latents, with size and checksum of each file
    cache/KEY/text-*                          embeddings of the captions (text_cache.py)

KEY is a hash of everything that the latents depend on. So a cache is either right or not found, and editing captions
does not affect the latents.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.data.cache_files import describe, save_tensors, verify
from engine.data.crop import Crop, apply_crop
from engine.data.crop_plan import STEP, CropPlan, Size
from engine.data.encode import EncoderBatches, latents_of
from engine.data.samples import Sample
from engine.data.text_cache import TextCache, encode_missing
from engine.data.text_shards import RunCaptions
from engine.data.token_cache import TokenCache
from engine.disk.images import load_map, load_rgb
from engine.disk.space import require_space
from engine.disk.tensor_file import Rows
from engine.distributed.group import ALONE, ProcessGroup
from engine.families.base import Family
from engine.families.files import part_files
from engine.families.latents import LatentSpace
from engine.families.text import USUAL_TEXT, TextOptions
from engine.families.tiles import in_tiles
from engine.jobs.control import OnProgress, Token
from engine.machine.device import empty_cache

SHARD = 512
ROOM_TO_SPARE = 64 * 2**20
IN_TILES = (
    "Memory ran out for a single large image: such images are encoded in tiles, and their latents differ slightly."
)

Entries = dict[Size, list[tuple[int, int]]]
"""For each size the crops (row of the sample, variant), in the order of the samples."""


def cropped_image(sample: Sample, crop: Crop) -> Image.Image:
    """Reads and crops an image: RGB, in the crop's size."""
    return apply_crop(load_rgb(sample.image, old_ground=sample.old_ground), crop)


def cropped_map(path: Path, crop: Crop, nearest: bool, old_ground: bool = False) -> np.ndarray:
    """Reads a condition map and crops it like its image: uint8 RGB (height, width, 3)."""
    return np.asarray(apply_crop(load_map(path, old_ground), crop, nearest=nearest))


def cache_key(base: str, samples: Sequence[Sample], plan: CropPlan) -> str:
    """A hash of the images, their crops and the base's VAE."""
    state = hashlib.blake2b(digest_size=12)
    crops: list[Any] = [plan.resolution, plan.mode, plan.variants, plan.buckets, plan.seed]
    if plan.step != STEP:  # caches from before there was a choice are found
        crops.append(plan.step)
    state.update(json.dumps([2, part_files(base, ("vae",)), crops]).encode())
    add_grounds(state, samples)
    for sample in samples:
        state.update(json.dumps([sample.key, sample.digest]).encode())
    return state.hexdigest()


def add_grounds(state: Any, samples: Sequence[Sample]) -> None:
    """Add to a hash how transparent parts are read: two datasets of the same files may do it in two ways."""
    if not all(sample.old_ground for sample in samples):
        state.update(b"grounds by contrast")


def entries(samples: Sequence[Sample], plan: CropPlan) -> Entries:
    """The crops to store, by size. The sizes are in a fixed order."""
    by_size: Entries = {}
    for row, sample in enumerate(samples):
        by_size.setdefault(plan.size(sample), []).extend((row, variant) for variant in range(plan.variants_of(sample)))
    return dict(sorted(by_size.items()))


class TrainingCache:
    """Reads latents by row of the sample and variant of its crop, and embeddings by caption."""

    def __init__(self, folder: Path, samples: Sequence[Sample], plan: CropPlan, texts: TextCache | TokenCache) -> None:
        self.folder = folder
        self._samples, self._plan, self._texts = samples, plan, texts
        self._places: dict[tuple[int, int], tuple[Size, int]] = {}
        self._shards: dict[Size, list[Any]] = {}
        for size, stored in entries(samples, plan).items():
            self._places.update({entry: (size, place) for place, entry in enumerate(stored)})
            paths = [_shard(folder, size, number) for number in range(-(-len(stored) // SHARD))]
            self._shards[size] = [_Shard(path) for path in paths]

    @property
    def text_note(self) -> str:
        """A sentence about long captions for the run's log; may be empty."""
        return self._texts.note

    @property
    def count(self) -> int:
        """Number of stored crops."""
        return len(self._places)

    def size(self, row: int) -> Size:
        """Width and height of a sample's crops, in pixels."""
        return self._places[row, 0][0]

    def latent_shape(self, row: int) -> tuple[int, ...]:
        """(C, h, w) of a sample's latents."""
        return tuple(self._shards[self.size(row)][0].mean.shape[1:])

    def latents(self, rows: Sequence[int], variants: Sequence[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of these samples' latents, fp32 (B, C, h, w). All must have the same size."""
        found = [self._find(row, variant) for row, variant in zip(rows, variants or [0] * len(rows), strict=True)]
        mean = np.concatenate([shard.mean.read([place]) for shard, place in found])
        logvar = np.concatenate([shard.logvar.read([place]) for shard, place in found])
        return torch.from_numpy(mean).float(), torch.from_numpy(logvar).float()

    def crop(self, row: int, variant: int = 0) -> Crop:
        """The crop that the latents were encoded from."""
        shard, place = self._find(row, variant)
        left, top, right, bottom = (int(number) for number in shard.box[place])
        sample = self._samples[row]
        return Crop((left, top, right, bottom), self.size(row), (sample.width, sample.height))

    def text(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Embeddings of captions of this dataset, or of "", fp32 (B, ...), all of one length in the whole run.

        Where words or text encoders are trained: token numbers (B, chunks, length).
        """
        return self._texts.read(captions)

    def text_of(self, caption: str) -> dict[str, torch.Tensor]:
        """The embedding of one caption, fp32 (1, ...), as long as it was encoded: a short one is not repeated.

        Raises:
            KeyError: it is no caption of this dataset.
        """
        return self._texts.read_one(caption)

    def _find(self, row: int, variant: int) -> tuple[_Shard, int]:
        size, place = self._places[row, variant]
        return self._shards[size][place // SHARD], place % SHARD


class _Shard:
    """The tensors of one file."""

    def __init__(self, path: Path) -> None:
        self.mean, self.logvar, box = (Rows(path, name) for name in ("mean", "logvar", "box"))
        self.box = box.read(range(len(box)))


def _shard(folder: Path, size: Size, number: int) -> Path:
    return folder / f"latents-{size[0]}x{size[1]}-{number:05d}.safetensors"


def open_or_build(
    cache_folder: Path,
    family: Family,
    base: str,
    samples: Sequence[Sample],
    plan: CropPlan,
    device: torch.device,
    token: Token,
    progress: OnProgress,
    batch: int = 8,
    group: ProcessGroup = ALONE,
    on_message: Callable[[str], None] = lambda message: None,
    text: TextOptions = USUAL_TEXT,
    other_captions: Sequence[str] = (),
    tokenizer: Any = None,
) -> TrainingCache:
    """Opens the cache of these samples and computes what is missing. Finished shards of an earlier attempt are kept.

    The processes of ``group`` share the latents; its main process does the rest.

    Args:
        batch: initial number of images per batch. It is halved when memory runs out, and ``on_message`` is called.
        text: how captions are read.
        other_captions: captions without an image, which are encoded as well.
        tokenizer: of a run in which words or text encoders are trained, whose captions are encoded anew in
            each step; None: they are encoded here.

    Raises:
        UserError: an image can no longer be read, or memory is not enough for one.
        DiskFull, OSError: the disk is full or gone; finished parts are kept.
        Cancelled: the token was cancelled.
    """
    folder = cache_folder / cache_key(base, samples, plan)
    if group.broadcast(lambda: not verify(folder / "cache.json", token, progress)):
        folder.mkdir(parents=True, exist_ok=True)
        _demand_room(folder, samples, plan, family.latent_space(base))
        batches = EncoderBatches(batch, "images", on_message)
        encode_latents(folder, family, base, samples, plan, device, token, progress, batches, group)
        group.barrier()
        if group.main:
            about: dict[str, Any] = {"count": len(samples), "made": time.strftime("%Y-%m-%d %H:%M:%S")}
            describe(folder / "cache.json", about, _shards(folder, samples, plan))
    captions = list(dict.fromkeys(["", *(sample.caption for sample in samples), *other_captions]))
    if tokenizer is not None:
        return TrainingCache(folder, samples, plan, TokenCache(family, tokenizer, captions, text, token))
    run = None
    if group.main:
        run = RunCaptions(folder, family, base, captions, text, token, progress)
        encode_missing(run, device, token, progress, on_message)
    group.barrier()
    run = run or RunCaptions(folder, family, base, captions, text, token)
    return TrainingCache(folder, samples, plan, TextCache(run))


def _shards(folder: Path, samples: Sequence[Sample], plan: CropPlan) -> list[Path]:
    return [
        _shard(folder, size, number)
        for size, stored in entries(samples, plan).items()
        for number in range(-(-len(stored) // SHARD))
    ]


def _demand_room(folder: Path, samples: Sequence[Sample], plan: CropPlan, space: LatentSpace) -> None:
    """Raises DiskFull if the missing latents will not fit on the disk: mean and log-variance in fp16."""
    missing = 0
    for size, stored in entries(samples, plan).items():
        for number, first in enumerate(range(0, len(stored), SHARD)):
            if not _shard(folder, size, number).exists():
                latent = math.prod(space.shape(*size))
                missing += len(stored[first : first + SHARD]) * (2 * latent * 2 + 16)
    require_space(folder, missing + ROOM_TO_SPARE, "The cache of images and captions")


@torch.no_grad()
def encode_latents(
    folder: Path,
    family: Family,
    base: str,
    samples: Sequence[Sample],
    plan: CropPlan,
    device: torch.device,
    token: Token,
    progress: OnProgress,
    batches: EncoderBatches,
    group: ProcessGroup,
) -> None:
    # fp32, since some images overflow the VAE's activations in fp16.
    vae: Any = batches.load(lambda: family.load_vae(base).to(device))
    encode = partial(latents_of, family, vae, samples, plan, device, token)
    by_size = entries(samples, plan)
    done, turn, total = 0, 0, sum(len(stored) for stored in by_size.values())
    for size, stored in by_size.items():
        for number, first in enumerate(range(0, len(stored), SHARD)):
            path, part = _shard(folder, size, number), stored[first : first + SHARD]
            before, done, turn = done, done + len(part), turn + 1
            if path.exists() or not group.owns(turn - 1):
                continue
            means, logvars, boxes = [], [], []
            for mean, logvar, cut in batches.over(part, encode):
                means.append(mean)
                logvars.append(logvar)
                boxes += cut
                if in_tiles(vae, max(size)):
                    batches.tell_once(IN_TILES)
                progress(before + len(boxes), total, "Encoding images")
            tensors = {"mean": torch.cat(means), "logvar": torch.cat(logvars)}
            save_tensors(path, {**tensors, "box": torch.tensor(boxes, dtype=torch.int32)})
    del vae, encode
    empty_cache()
