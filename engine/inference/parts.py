"""What a drawing of Try it is made of besides the sampling: saving memory, the image it begins with, looks at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from engine.data.crop import apply_crop, shared_crop
from engine.errors import UserError
from engine.families.registry import Family
from engine.inference.request import TryRequest
from engine.inference.sampling import Beginning, decode

MAX_BATCH = 4
TILES, OFFLOAD = 1, 2
FEATHER = 3
"""Blur of a mask's edge in the finished image, in px."""
LOOK_LATENTS = 32
"""Longest side of a sketch, in latents."""
LOOK_SHARE = 0.1
"""Most of the time that sketches may take."""


class Thrift:
    """How a session saves memory: not at all, the VAE in tiles and one image at a time, or parts in RAM as well."""

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        self._device = device
        # Without a card the parts are in RAM already.
        self.most = most if most is not None else (OFFLOAD if device.type == "cuda" else TILES)
        self.level = 0

    @property
    def at_once(self) -> int:
        return 1 if self.level else MAX_BATCH

    @property
    def offload(self) -> bool:
        return self.level >= OFFLOAD

    def save_more(self) -> str:
        """One level further, in words.

        Raises:
            UserError: there is none.
        """
        if self.level >= self.most:
            raise UserError(
                "The memory is not enough for this image.",
                "It ran out even with the image decoded in tiles"
                + (" and the parts of the model moved in one after the other." if self.offload else "."),
                "Choose a smaller size, close other programs that use the graphics card, or pause the training.",
            )
        self.level += 1
        if self.level == TILES:
            return "Memory ran out: the images were drawn one at a time and decoded in tiles."
        return "Memory ran out: the parts of the model waited in the computer's memory until they were needed (slower)."

    @contextmanager
    def on_device(self, *modules: Any) -> Iterator[None]:
        """Within the block these parts are where they compute; with offload they go back to RAM afterwards."""
        held = [module for module in modules if module is not None]
        if not self.offload:
            yield
            return
        for module in held:
            module.to(self._device)
        try:
            yield
        finally:
            for module in held:
                module.to("cpu")
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    @contextmanager
    def tiled(self, vae: Any) -> Iterator[None]:
        """Within the block the VAE decodes large images piece by piece."""
        if not self.level:
            yield
            return
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_tiling()


def fitted(picture: Image.Image, request: TryRequest) -> Image.Image:
    """An image in the request's size, cut to its shape around the centre, in its own mode."""
    crop = shared_crop(picture.width, picture.height, (request.width, request.height))
    return apply_crop(picture, crop)


@torch.no_grad()
def beginning_of(family: Family, vae: Any, batch: Sequence[TryRequest]) -> Beginning:
    """The images that are drawn over, as latents, one after the other: encoding peaks like decoding."""
    rows, masks = [], []
    for request in batch:
        assert request.image is not None, "a batch has images for all or for none"
        pixels = np.asarray(fitted(request.image.convert("RGB"), request))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        rows.append(family.encode_mean(vae, image.to(vae.device, vae.dtype))[0])
        if request.mask is not None:
            white = torch.from_numpy(np.asarray(fitted(request.mask.convert("L"), request)).copy()).float() / 255
            masks.append(torch.nn.functional.max_pool2d((white[None] > 0.5).float(), family.latents.factor))
    return Beginning(torch.stack(rows), batch[0].change, torch.stack(masks) if masks else None)


def keep_outside(request: TryRequest, drawn: Image.Image) -> Image.Image:
    """Outside of the mask the image itself, which the VAE has only nearly given back."""
    if request.image is None or request.mask is None:
        return drawn
    mask = fitted(request.mask.convert("L"), request).filter(ImageFilter.GaussianBlur(FEATHER))
    return Image.composite(drawn, fitted(request.image.convert("RGB"), request), mask)


class LiveImage:
    """Sketches of the first image of a batch while it is drawn: its latents, made smaller, through the VAE.

    As often as they take a tenth of the time at most.
    """

    def __init__(self, family: Family, vae: Any, show: Callable[[Image.Image], None]) -> None:
        self._family, self._vae, self._show = family, vae, show
        self._cost, self._ended = 0.0, time.perf_counter()

    def __call__(self, latents: torch.Tensor) -> None:
        began = time.perf_counter()
        if began - self._ended < self._cost / LOOK_SHARE:
            return
        first = latents[:1].float()
        shrink = max(first.shape[-2:]) / LOOK_LATENTS
        if shrink > 1:
            size = [max(1, round(side / shrink)) for side in first.shape[-2:]]
            first = torch.nn.functional.interpolate(first, size=size, mode="area")
        self._show(decode(self._family, self._vae, first)[0])
        self._ended = time.perf_counter()
        self._cost = self._ended - began
