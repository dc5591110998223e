"""From prompts and control pictures to pictures, one stage at a time. Shared by Try it and by the previews of a run.

Noise is drawn on the CPU in fp32, one generator a picture: the same seed gives the same picture in any batch, and very
nearly the same one on any card. Pictures are decoded in fp32, one at a time: the VAE is where half precision breaks and
where memory peaks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.data.crop import apply_crop, shared_crop
from engine.data.samples import CancelToken
from engine.errors import UserError
from engine.families import Family

Text = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Drawing:
    """How pictures of one batch are drawn. ``strength``: scale of the control, 0 draws as if there were none."""

    steps: int = 20
    guidance: float = 7.5
    strength: float = 1.0


def to_hint(image: Image.Image | np.ndarray, width: int, height: int, nearest: bool = False) -> torch.Tensor:
    """A condition map as the net reads it: RGB in 0..1, (3, height, width) fp32.

    A map of another size is cut to the aspect around its centre and resized, as in training.

    Args:
        image: a picture, or uint8 RGB (h, w, 3).
        nearest: for maps whose values are labels and must not be mixed.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    crop = shared_crop(picture.width, picture.height, (width, height))
    pixels = np.asarray(apply_crop(picture.convert("RGB"), crop, nearest))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous().float() / 255


def seeded_noise(family: Family, seeds: Sequence[int], channels: int, width: int, height: int) -> torch.Tensor:
    """Standard normal latents (B, channels, height / 8, width / 8) fp32 on the CPU; each picture has its own seed."""
    shape = (channels, height // family.latent_factor, width // family.latent_factor)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def draw_latents(
    family: Family,
    pipeline: Any,
    text: Text,
    negative: Text,
    hints: torch.Tensor,
    seeds: Sequence[int],
    how: Drawing,
    token: CancelToken | None = None,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Sample B latents (B, 4, h, w).

    Args:
        pipeline: from ``family.pipeline``; VAE and text encoder may be left out of it.
        text, negative: from ``family.encode_text``, B rows each (``negative`` may have one row for all).
        hints: RGB in 0..1, (B, 3, H, W).
        on_step: called with the number of finished steps.

    Raises:
        Cancelled: the token says so; between two steps.
        UserError: the result is not finite.
    """
    unet, controlnet = pipeline.unet, pipeline.controlnet
    device, count = unet.device, len(seeds)
    height, width = hints.shape[-2:]
    place = {"device": device, "dtype": unet.dtype}
    arguments = family.prompt_arguments(
        {name: rows.expand(count, *rows.shape[1:]).to(**place) for name, rows in text.items()},
        {name: rows.expand(count, *rows.shape[1:]).to(**place) for name, rows in negative.items()},
    )

    def after_step(_pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if on_step:
            on_step(step + 1)
        if token:
            token.raise_if_cancelled()
        return values

    with _in_dtype_of(controlnet, unet):
        latents = pipeline(
            **arguments,
            image=hints.to(device=device, dtype=controlnet.dtype),
            width=width,
            height=height,
            latents=seeded_noise(family, seeds, unet.config.in_channels, width, height).to(**place),
            # Samplers that add noise on the way draw it from the picture's own seed, too.
            generator=[torch.Generator().manual_seed(seed + 1) for seed in seeds],
            num_inference_steps=how.steps,
            guidance_scale=how.guidance,
            controlnet_conditioning_scale=float(how.strength),
            callback_on_step_end=after_step,
            output_type="latent",
        ).images
    if not torch.isfinite(latents).all():
        raise UserError(
            "The picture came out empty.",
            "The numbers overflowed while it was drawn.",
            "Choose an earlier checkpoint, a lower strength or guidance scale, or fp32.",
        )
    return latents


@torch.no_grad()
def decode(
    family: Family, vae: Any, latents: Iterable[torch.Tensor], token: CancelToken | None = None
) -> list[Image.Image]:
    """Latents (B, 4, h, w), or several (4, h, w), to RGB pictures. The VAE should be in fp32."""
    pictures = []
    for one in latents:
        if token:
            token.raise_if_cancelled()
        pixels = family.decode_latents(vae, one[None].to(vae.device))[0].float()
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        pictures.append(Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()))
    return pictures


def free_memory() -> None:
    """Give what is no longer referenced back to the card."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _in_dtype_of(controlnet: Any, unet: Any) -> Iterator[None]:
    """While training, fp32 master weights meet a UNet in half precision: run the ControlNet alone under autocast.

    The scheduler and the UNet stay outside of it.
    """
    if {weight.dtype for weight in controlnet.parameters()} == {unet.dtype}:
        yield
        return
    original, patched = controlnet.forward, "forward" in vars(controlnet)  # accelerate patches it, too

    def forward(*arguments: Any, **named: Any) -> Any:
        with torch.autocast(unet.device.type, dtype=unet.dtype):
            down, middle = original(*arguments, **{**named, "return_dict": False})
        return [residual.to(unet.dtype) for residual in down], middle.to(unet.dtype)

    controlnet.forward = forward
    try:
        yield
    finally:
        if patched:
            controlnet.forward = original
        else:
            del controlnet.forward
