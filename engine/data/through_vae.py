"""What a net that reads latents sees of a dataset's control images: some, as the base's VAE decodes them again.

    cache/through-vae/HASH.png     what is left of a control image
    cache/through-vae/HASH.json    how much of its lines that is; written last

HASH is of the VAE, the control image and its crop, so an entry is either right or not found. torch is imported only
where something is encoded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine.conditions import registry
from engine.data.crop import Crop, apply_crop
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.lines_kept import LinesKept, lines_kept
from engine.data.samples import Sample
from engine.disk.durable import atomic_write, atomic_write_text
from engine.disk.images import load_map
from engine.families.files import configs_at, part_files
from engine.jobs.control import CancelToken, OnProgress

FOLDER = "through-vae"
PAIRS = 9
"""Control images of a dataset that are encoded: the first, the last, and others evenly between."""
LABEL = "Control images through the VAE"


@dataclass(frozen=True)
class Reconstruction:
    """One control image after the VAE."""

    sample: Sample
    picture: Path
    """What the VAE decodes, RGB, in the size of the crop."""
    lines: LinesKept | None
    """None: it is no map of lines on a plain ground."""


def reads_latents(base: str) -> bool:
    """Whether the ControlNets of a base read latents of the control image. Its configs tell."""
    return configs_at(base).facts.control_is_encoded


def share_kept(seen: Sequence[Reconstruction]) -> float | None:
    """The mean share of line pixels that is left; None: none of them is a map of lines."""
    shares = [one.lines.pixels for one in seen if one.lines is not None]
    return sum(shares) / len(shares) if shares else None


def pairs_to_reconstruct(dataset: Dataset) -> list[Sample]:
    """PAIRS samples with control images, evenly over the dataset; all of a smaller one."""
    total = dataset.count(ready=True)
    places = dict.fromkeys(place * (total - 1) // (PAIRS - 1) for place in range(PAIRS)) if total else {}
    return [sample for place in places for sample in dataset.samples(place, 1, ready=True)]


def read_reconstruction(
    cache: Path, base: str, dataset: Dataset, sample: Sample, plan: CropPlan
) -> Reconstruction | None:
    """What an earlier call of ``reconstruct`` has found; None: nothing yet.

    Args:
        cache: the workspace's folder of caches.
        base: where the base is on this disk.
    """
    return _read(_stem(cache, base, dataset, sample, _crop(sample, plan)), sample)


def reconstruct(
    cache: Path,
    base: str,
    dataset: Dataset,
    samples: Sequence[Sample],
    plan: CropPlan,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> list[Reconstruction]:
    """Encode and decode the control images of these samples. What is known already is read.

    On the graphics card if there is one with room, else on the processor.

    Raises:
        UserError: the base or a control image cannot be read, or memory is not enough for one.
        Cancelled: by the token. What is finished is kept.
    """
    folder = cache / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    spec = dataset.condition
    nearest = spec is not None and registry.get(spec.type).categorical
    vae = None
    found = []
    for done, sample in enumerate(samples):
        if token:
            token.raise_if_cancelled()
        if progress:
            progress(done, len(samples), LABEL)
        crop = _crop(sample, plan)
        stem = _stem(cache, base, dataset, sample, crop)
        if (seen := _read(stem, sample)) is None:
            from engine.data.vae_round_trip import RoundTrip

            vae = vae or RoundTrip(base)
            source = load_map(dataset.condition_path(sample), sample.old_ground)
            map = np.asarray(apply_crop(source, crop, nearest=nearest))
            again = vae.decoded(map)
            with atomic_write(stem.with_suffix(".png")) as temporary:
                Image.fromarray(again).save(temporary, "PNG")
            kept = lines_kept(map, again)
            atomic_write_text(stem.with_suffix(".json"), json.dumps(vars(kept) if kept else {}))
            seen = Reconstruction(sample, stem.with_suffix(".png"), kept)
        found.append(seen)
    if progress:
        progress(len(samples), len(samples), LABEL)
    return found


def _crop(sample: Sample, plan: CropPlan) -> Crop:
    """Of random crops the centre."""
    return plan.crop(sample)


def _read(stem: Path, sample: Sample) -> Reconstruction | None:
    try:
        kept = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        return Reconstruction(sample, stem.with_suffix(".png"), LinesKept(**kept) if kept else None)
    except (OSError, ValueError, TypeError):
        return None  # not made yet, or by another version


def _stem(cache: Path, base: str, dataset: Dataset, sample: Sample, crop: Crop) -> Path:
    map = dataset.condition_path(sample)
    facts = map.stat() if map.exists() else None
    state = [1, part_files(base, ("vae",)), configs_at(base).facts.name, str(map), crop.box, crop.size]
    state += [facts.st_size, facts.st_mtime_ns] if facts else []
    name = hashlib.blake2b(json.dumps(state).encode(), digest_size=12).hexdigest()
    return cache / FOLDER / name
