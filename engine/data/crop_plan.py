"""Crops of a run's images: the size of each (its bucket), and the place of the crop."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from engine.config import DataConfig
from engine.data.crop import Crop, lost_fraction, shared_crop
from engine.data.samples import Sample
from engine.disk.images import load_rgb

STEP = 64  # pixels; a UNet halves the latents three times, and latents are an eighth of the image
LONGEST = 3.0  # maximum aspect ratio of a bucket
LEAST_AREA = 0.8  # minimum area of a bucket, as a fraction of resolution squared

Size = tuple[int, int]
"""Width and height in pixels."""


@lru_cache(maxsize=32)
def bucket_sizes(resolution: int, step: int = STEP) -> tuple[Size, ...]:
    """Sizes in multiples of ``step`` with 0.8 to 1 times the area of resolution squared, at most 3 : 1, narrow first.

    The square is always among them. No bucket needs more memory than it.
    """
    area, sizes = resolution * resolution, {(resolution, resolution)}
    for width in range(step, int(resolution * LONGEST**0.5) + step, step):
        height = area // width // step * step
        if height and max(width, height) <= LONGEST * min(width, height) and width * height >= LEAST_AREA * area:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes, key=lambda size: (size[0] / size[1], size)))


@lru_cache(maxsize=65_536)
def nearest_bucket(width: int, height: int, resolution: int, step: int = STEP) -> Size:
    """The size that keeps most of an image. Of two that keep as much, the larger."""

    def kept(size: Size) -> tuple[float, int]:
        return -round(lost_fraction(shared_crop(width, height, size)), 6), size[0] * size[1]

    return max(bucket_sizes(resolution, step), key=kept)


@dataclass(frozen=True)
class CropPlan:
    """The crops of a run. The same plan always crops an image in the same way."""

    resolution: int
    mode: str = "centre"
    variants: int = 1
    buckets: bool = False
    seed: int = 0
    step: int = STEP
    """Sides of buckets are multiples of this, in pixels."""

    @classmethod
    def of(cls, data: DataConfig, seed: int = 0) -> CropPlan:
        """The plan for a run's settings. Ignores settings without effect, so that runs can share caches."""
        random = data.crop == "random"
        variants, seed = (data.crop_variants, seed) if random else (1, 0)
        step = data.bucket_step if data.buckets else STEP
        return cls(data.resolution, data.crop, variants, data.buckets, seed, step)

    def size(self, sample: Sample) -> Size:
        """Width and height of the sample's crops."""
        if not self.buckets:
            return self.resolution, self.resolution
        return nearest_bucket(sample.width, sample.height, self.resolution, self.step)

    def variants_of(self, sample: Sample) -> int:
        """Number of different crops of this image. One if its aspect ratio fits, since there is no room to move."""
        if self.variants == 1 or lost_fraction(shared_crop(sample.width, sample.height, self.size(sample))) == 0:
            return 1
        return self.variants

    def crop(self, sample: Sample, variant: int = 0, image: Image.Image | None = None) -> Crop:
        """The crop for the image and its map. Variant 0 of random crops is the centre.

        ``image``: for smart crops; read from disk if it is not given. Raises UserError if that fails.
        """
        size, mode, seed = self.size(sample), self.mode, None
        if mode == "random":
            mode = "random" if variant else "centre"
            seed = _number(f"{self.seed}:{variant}:{sample.key}")
        if mode == "smart" and image is None:
            image = load_rgb(sample.image, old_ground=sample.old_ground)
        return shared_crop(sample.width, sample.height, size, mode, seed, image)

    def variant_at(self, sample: Sample, epoch: int) -> int:
        """The variant to use in this epoch."""
        return _number(f"{self.seed}:epoch {epoch}:{sample.key}") % self.variants_of(sample)


@dataclass(frozen=True)
class BucketCount:
    """Number of images in a bucket, and the mean fraction of them that is cropped away."""

    size: Size
    images: int
    lost: float


def count_buckets(samples: Iterable[Sample], plan: CropPlan) -> list[BucketCount]:
    """Number of images in each bucket, the fullest first."""
    images: Counter[Size] = Counter()
    lost: Counter[Size] = Counter()
    seen: dict[Size, tuple[Size, float]] = {}  # most images of a dataset have one of a few sizes
    for sample in samples:
        source = (sample.width, sample.height)
        if source not in seen:
            size = plan.size(sample)
            seen[source] = (size, lost_fraction(shared_crop(*source, size)))
        size, fraction = seen[source]
        images[size] += 1
        lost[size] += fraction  # type: ignore[assignment]
    return [BucketCount(size, count, lost[size] / count) for size, count in images.most_common()]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
