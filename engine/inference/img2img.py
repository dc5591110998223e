"""Drawing over an image: latents to start from, and the parts outside the mask that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from engine.data.crop import apply_crop, shared_crop
from engine.families.registry import Family
from engine.inference.request import TryRequest

FEATHER = 3
"""Blur of the mask's edge in the finished image, in px."""


@dataclass(frozen=True)
class InitLatents:
    """Images to draw over, for one batch. ``latents``: scaled, (B, C, h, w)."""

    latents: torch.Tensor
    change: float
    """Denoising strength, 0..1: the fraction of the steps that are done."""
    mask: torch.Tensor | None = None
    """(B, 1, h, w): 1 where the image is redrawn, 0 where it stays. None: everywhere."""


@torch.no_grad()
def encode_init(family: Family, vae: Any, batch: Sequence[TryRequest]) -> InitLatents:
    """Encode the images of a batch, one by one: the VAE's memory peaks here as in decoding."""
    rows, masks = [], []
    for request in batch:
        assert request.image is not None, "a batch has images for all or for none"
        pixels = np.asarray(_fit(request.image.convert("RGB"), request))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        rows.append(family.encode_mean(vae, image.to(vae.device, vae.dtype))[0])
        if request.mask is not None:
            white = torch.from_numpy(np.asarray(_fit(request.mask.convert("L"), request)).copy()).float() / 255
            masks.append(torch.nn.functional.max_pool2d((white[None] > 0.5).float(), family.latents.factor))
    return InitLatents(torch.stack(rows), batch[0].change, torch.stack(masks) if masks else None)


def keep_outside(request: TryRequest, drawn: Image.Image) -> Image.Image:
    """Put the original pixels back outside the mask, where the VAE reproduces them only roughly."""
    if request.image is None or request.mask is None:
        return drawn
    mask = _fit(request.mask.convert("L"), request).filter(ImageFilter.GaussianBlur(FEATHER))
    return Image.composite(drawn, _fit(request.image.convert("RGB"), request), mask)


def _fit(image: Image.Image, request: TryRequest) -> Image.Image:
    """Resize an image to the request's size, cropped around its centre."""
    return apply_crop(image, shared_crop(image.width, image.height, (request.width, request.height)))


class SamplingStart:
    """The start of sampling: pure noise, or the init latents with the amount of noise that will be removed."""

    def __init__(
        self, family: Family, pipeline: Any, noise: torch.Tensor, steps: int, init: InitLatents | None
    ) -> None:
        self.pipeline, self._family, self._latents, self._mask = pipeline, family, noise, None
        self._change: float | None = None
        if init is None:
            return
        self.pipeline = family.image_pipeline(pipeline)
        self._change = min(1.0, max(init.change, 1.01 / steps))  # at least one step
        scheduler = self.pipeline.scheduler
        family.set_timesteps(self.pipeline, steps, noise)
        self._timesteps, _ = self.pipeline.get_timesteps(steps, self._change, noise.device)
        self._clean, self._noise = init.latents.to(noise), noise
        self._latents = family.add_sampling_noise(scheduler, self._clean, noise, self._timesteps[:1].repeat(len(noise)))
        self._mask = init.mask.to(noise) if init.mask is not None else None

    def arguments(self, control: Any) -> dict[str, Any]:
        """Return the arguments that diffusers' text-to-image and image-to-image pipelines name differently."""
        latents = self._family.to_pipeline(self._latents)
        if self._change is None:
            return {"image": control, "latents": latents}
        return {"image": self._clean, "control_image": control, "latents": latents, "strength": self._change}

    def keep_unmasked(self, scheduler: Any, latents: torch.Tensor, step: int) -> torch.Tensor:
        """Replace the latents outside the mask by those of the image, with the noise of the next step.

        This is what diffusers' ControlNet inpainting pipeline does with bases that have no input channels for a mask.
        """
        if self._mask is None:
            return latents
        kept = self._clean
        if step + 1 < len(self._timesteps):
            timesteps = self._timesteps[step + 1 : step + 2].repeat(len(kept))
            kept = self._family.add_sampling_noise(scheduler, kept, self._noise, timesteps)
        return self._mask * latents + (1 - self._mask) * kept
