"""Encodes images and captions with the base's encoders, in batches as large as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from engine.machine.memory import AdaptiveBatch, free_memory, none_if_out_of_memory

Box = tuple[int, int, int, int]
S = TypeVar("S")
T = TypeVar("T")


class EncoderBatches:
    """Runs a model over items in batches, smaller ones after memory ran out. Finished batches are kept."""

    def __init__(self, batch: int, what: str, on_message: Callable[[str], None]) -> None:
        """
        Args:
            batch: initial batch size.
            what: the items in the plural, for messages ("images").
            on_message: called with a sentence when batches become smaller.
        """
        self._what, self._on_message = what, on_message
        self._told: set[str] = set()
        self._batch = AdaptiveBatch(batch, on_halved=self._halved)

    def load(self, load: Callable[[], T]) -> T:
        """Return ``load()``, called a second time after memory was freed if it ran out.

        Raises:
            UserError: memory ran out both times.
        """
        for _ in range(2):
            if (loaded := none_if_out_of_memory(load)) is not None:
                return loaded
            free_memory()
        raise self._too_much(f"The model that encodes the {self._what} does not fit.")

    def over(self, items: Sequence[S], work: Callable[[Sequence[S]], T]) -> Iterator[T]:
        """Yield ``work(batch)`` for the items in order.

        Raises:
            UserError: memory ran out for a single item.
        """
        try:
            yield from self._batch.over(items, work)
        except MemoryError as error:
            raise self._too_much(f"It ran out even for one of the {self._what} at a time.") from error

    def tell_once(self, words: str) -> None:
        """Pass a sentence on, the first time."""
        if words not in self._told:
            self._told.add(words)
            self._on_message(words)

    def _halved(self, tried: int, size: int) -> None:
        self._on_message(f"Memory ran out with {tried} {self._what} at a time; continuing with {size}.")

    def _too_much(self, why: str) -> UserError:
        return UserError(
            f"There is not enough memory to encode the {self._what}.",
            why,
            "Close other programs that use the graphics card, or choose a lower resolution or a smaller model. "
            "Finished work is kept.",
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
    """Encodes crops, each (row of the sample, variant): mean and log-variance, fp16 (B, C, h, w) on the CPU; boxes."""
    token.raise_if_cancelled()
    crops = _read(samples, plan, some)
    pixels = np.stack([np.asarray(image) for image, _ in crops])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
    mean, logvar = family.encode_images(vae, images)
    return mean.half().cpu(), logvar.half().cpu(), [crop.box for _, crop in crops]


def _read(samples: Sequence[Sample], plan: CropPlan, some: Sequence[tuple[int, int]]) -> list[tuple[Image.Image, Crop]]:
    """Reads these crops. An image is read once for all its variants."""
    crops, last, image = [], -1, Image.new("RGB", (1, 1))
    for row, variant in some:
        if row != last:
            last, image = row, load_rgb(samples[row].image, old_ground=samples[row].old_ground)
        crop = plan.crop(samples[row], variant, image)
        crops.append((apply_crop(image, crop), crop))
    return crops
