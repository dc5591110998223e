"""Images and captions through the base's encoders, as many at once as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from engine.data.crop import Crop, apply_crop
from engine.data.crop_plan import CropPlan
from engine.data.samples import Sample
from engine.disk.images import load_rgb
from engine.errors import UserError
from engine.families.base import Family
from engine.jobs.control import Token
from engine.machine.free_memory import attempt, free_memory

Box = tuple[int, int, int, int]
S = TypeVar("S")
T = TypeVar("T")


class Fitting:
    """Halves its batches where memory runs out, and stays with the smaller ones. What was done before is kept."""

    def __init__(self, batch: int, what: str, tell: Callable[[str], None]) -> None:
        """
        Args:
            batch: how many to begin with.
            what: in the plural, for people ("images").
            tell: hears a sentence where batches become smaller.
        """
        self.batch, self._what, self._tell = batch, what, tell

    def load(self, load: Callable[[], T]) -> T:
        """``load()``, and a second time after memory was freed.

        Raises:
            UserError: memory ran out both times.
        """
        for _ in range(2):
            if (loaded := attempt(load)) is not None:
                return loaded
            free_memory()
        raise self._too_much(f"The model that the {self._what} go through does not fit.")

    def over(self, items: Sequence[S], work: Callable[[Sequence[S]], T]) -> Iterator[T]:
        """``work`` of these items, batch by batch in their order.

        Raises:
            UserError: memory ran out for one of them alone.
        """
        first = 0
        while first < len(items):
            some = items[first : first + self.batch]
            made = attempt(partial(work, some))
            if made is None:
                free_memory()
                self._halve(len(some))
            else:
                first += len(some)
                yield made

    def _halve(self, tried: int) -> None:
        if tried == 1:
            raise self._too_much(f"It ran out even for one of the {self._what} at a time.")
        self.batch = tried // 2
        self._tell(f"Memory ran out with {tried} {self._what} at a time; going on with {self.batch}.")

    def _too_much(self, why: str) -> UserError:
        return UserError(
            f"The memory is not enough for the {self._what}.",
            why,
            "Close other programs that use the graphics card, or choose a lower resolution or a smaller model. What is "
            "finished is kept.",
        )


def latents_of(
    family: Family,
    vae: Any,
    samples: Sequence[Sample],
    plan: CropPlan,
    device: torch.device,
    token: Token,
    some: Sequence[tuple[int, int]],
) -> tuple[torch.Tensor, torch.Tensor, list[Box]]:
    """Mean and log-variance of these crops (row of the sample, variant), fp16 (B, 4, h, w) on the CPU; their boxes."""
    token.raise_if_cancelled()
    crops = _read(samples, plan, some)
    pictures = np.stack([np.asarray(image) for image, _ in crops])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
    mean, logvar = family.encode_images(vae, images)
    return mean.half().cpu(), logvar.half().cpu(), [crop.box for _, crop in crops]


def _read(samples: Sequence[Sample], plan: CropPlan, some: Sequence[tuple[int, int]]) -> list[tuple[Image.Image, Crop]]:
    """These crops of the images; an image is read once for all its variants."""
    crops, last, image = [], -1, Image.new("RGB", (1, 1))
    for row, variant in some:
        if row != last:
            last, image = row, load_rgb(samples[row].image)
        crop = plan.crop(samples[row], variant, image)
        crops.append((apply_crop(image, crop), crop))
    return crops
