"""Latents and text embeddings, computed once before training and read by memory map.

    cache/KEY/latents-00000.safetensors   mean, logvar: (n, 4, h, w) fp16, SHARD samples a file, in the samples' order
    cache/KEY/text.safetensors            one row a caption, and one for the empty prompt
    cache/KEY/cache.json                  the captions in the order of the rows; written last

KEY hashes everything that the numbers depend on, so a cache is either right or not found.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.data.crop import apply_crop, shared_crop
from engine.data.images import load_rgb
from engine.data.samples import Progress, Sample
from engine.errors import UserError
from engine.families.base import Family
from engine.jobs.control import Token

SHARD = 512


def cropped_image(sample: Sample, resolution: int) -> Image.Image:
    """The picture as the net sees it: RGB, resolution x resolution."""
    return apply_crop(load_rgb(sample.image), shared_crop(sample.width, sample.height, resolution))


def cropped_hint(path: Path, sample: Sample, resolution: int, nearest: bool) -> np.ndarray:
    """The condition map under the same crop: uint8 RGB (resolution, resolution, 3)."""
    crop = shared_crop(sample.width, sample.height, resolution)
    return np.asarray(apply_crop(load_rgb(path), crop, nearest=nearest))


def cache_key(base: str, samples: Sequence[Sample], resolution: int) -> str:
    """Hash of the pictures, the captions, the resolution and the base's encoders."""
    state = hashlib.blake2b(digest_size=12)
    encoders = [str(base)]
    if Path(base).is_file():
        encoders.append(f"{Path(base).stat().st_size}:{Path(base).stat().st_mtime_ns}")
    if Path(base).is_dir():
        for part in ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"):
            for path in sorted((Path(base) / part).glob("*")):
                facts = path.stat()
                encoders.append(f"{part}/{path.name}:{facts.st_size}:{facts.st_mtime_ns}")
    state.update(json.dumps([1, encoders, resolution]).encode())
    for sample in samples:
        state.update(json.dumps([sample.key, sample.digest, sample.caption]).encode())
    return state.hexdigest()


class TrainingCache:
    """What training reads: latents by row, text by caption."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
        self.count: int = about["count"]
        self._rows = {caption: row for row, caption in enumerate(about["captions"])}
        self._text = load_file(folder / "text.safetensors")
        shards = [safe_open(path, framework="pt") for path in sorted(folder.glob("latents-*.safetensors"))]
        self._mean = [shard.get_slice("mean") for shard in shards]
        self._logvar = [shard.get_slice("logvar") for shard in shards]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return tuple(self._mean[0].get_shape()[1:])

    def latents(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of these samples, fp32 (B, 4, h, w)."""
        mean = [self._mean[row // SHARD][row % SHARD] for row in rows]
        logvar = [self._logvar[row // SHARD][row % SHARD] for row in rows]
        return torch.stack(mean).float(), torch.stack(logvar).float()

    def text(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Embeddings of captions of this dataset, or of "", fp32, B in front."""
        rows = torch.tensor([self._rows[caption] for caption in captions])
        return {name: table[rows].float() for name, table in self._text.items()}


def open_or_build(
    cache_folder: Path,
    family: Family,
    base: str,
    samples: Sequence[Sample],
    resolution: int,
    device: torch.device,
    token: Token,
    progress: Progress,
    batch: int = 8,
) -> TrainingCache:
    """The cache of these samples; what is missing is made, finished shards of an earlier try are kept.

    Raises:
        UserError: a picture cannot be read any more. Cancelled: asked for by the owner.
    """
    folder = cache_folder / cache_key(base, samples, resolution)
    if not (folder / "cache.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _encode_latents(folder, family, base, samples, resolution, device, token, progress, batch)
        captions = list(dict.fromkeys(["", *(sample.caption for sample in samples)]))
        _encode_text(folder, family, base, captions, device, token, progress)
        about = {"count": len(samples), "captions": captions, "made": time.strftime("%Y-%m-%d %H:%M:%S")}
        _replace(folder / "cache.json", json.dumps(about, ensure_ascii=False).encode("utf-8"))
    return TrainingCache(folder)


@torch.no_grad()
def _encode_latents(
    folder: Path,
    family: Family,
    base: str,
    samples: Sequence[Sample],
    resolution: int,
    device: torch.device,
    token: Token,
    progress: Progress,
    batch: int,
) -> None:
    # fp32: the SD VAE's activations overflow fp16 on some pictures, and this is done once.
    vae: Any = family.load_vae(base, torch.float32).to(device)
    for number, first in enumerate(range(0, len(samples), SHARD)):
        path = folder / f"latents-{number:05d}.safetensors"
        part = samples[first : first + SHARD]
        if not path.exists():
            means, logvars = [], []
            for start in range(0, len(part), batch):
                token.raise_if_cancelled()
                pictures = [np.asarray(cropped_image(sample, resolution)) for sample in part[start : start + batch]]
                images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
                mean, logvar = family.encode_images(vae, images)
                means.append(mean.half().cpu())
                logvars.append(logvar.half().cpu())
                progress(first + start + len(pictures), len(samples), "Encoding pictures")
            _save(path, {"mean": torch.cat(means), "logvar": torch.cat(logvars)})
    del vae
    if device.type == "cuda":
        torch.cuda.empty_cache()


@torch.no_grad()
def _encode_text(
    folder: Path,
    family: Family,
    base: str,
    captions: Sequence[str],
    device: torch.device,
    token: Token,
    progress: Progress,
    batch: int = 32,
) -> None:
    tokenizer = family.load_tokenizer(base)
    encoder = family.load_text_encoder(base, torch.float32).to(device)
    parts: dict[str, list[torch.Tensor]] = {}
    for start in range(0, len(captions), batch):
        token.raise_if_cancelled()
        for name, rows in family.encode_text(tokenizer, encoder, captions[start : start + batch]).items():
            parts.setdefault(name, []).append(rows.half().cpu())
        progress(min(start + batch, len(captions)), len(captions), "Encoding captions")
    _save(folder / "text.safetensors", {name: torch.cat(rows) for name, rows in parts.items()})


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    except OSError as error:
        raise UserError(
            f"The cache {path.parent.name} could not be written.",
            f"{error.strerror or error}.",
            "Free some space on the workspace's disk and start again; finished parts are kept.",
        ) from error
    os.replace(temporary, path)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
