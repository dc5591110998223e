"""From prompts and control images to images, in stages. Used by Try it, by grids and by the previews of a run.

Noise is drawn on the CPU in fp32 with one generator for each image, so a seed gives the same image in any batch and
very nearly the same one on any card. Images are decoded in fp32, one at a time: the VAE is where half precision breaks
and where memory peaks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.data.crop import apply_crop, shared_crop
from engine.errors import UserError
from engine.families.family_facts import FamilyFacts
from engine.families.guidance import rescaled
from engine.families.registry import Family
from engine.inference import samplers
from engine.inference.img2img import InitLatents, SamplingStart
from engine.inference.settings import SamplingOptions
from engine.jobs.control import CancelToken
from engine.machine.units import counted

Text = dict[str, torch.Tensor]
PREVIEW_LATENTS = 32
"""Longest side of a live preview, in latents."""
PREVIEW_TIME = 0.1
"""Largest fraction of the time that live previews may take."""


@dataclass(frozen=True)
class SecondControlNet:
    """A second ControlNet beside the first. ``control``: its control images, uint8 RGB (B, H, W, 3)."""

    net: Any
    control: torch.Tensor
    strength: float = 1.0


def fit_control(image: Image.Image | np.ndarray, width: int, height: int, nearest: bool = False) -> torch.Tensor:
    """Resize a control image to the size of the drawing: uint8 RGB (height, width, 3).

    It is cropped to the aspect ratio around its centre and resized, as in training.

    Args:
        image: an image, or uint8 RGB (h, w, 3).
        nearest: for maps whose values are labels and must not be mixed.
    """
    source = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    crop = shared_crop(source.width, source.height, (width, height))
    pixels = np.asarray(apply_crop(source.convert("RGB"), crop, nearest))
    return torch.from_numpy(pixels.copy())


def long_prompt_note(prompt: str, chunks: int) -> str:
    """Return a note about a prompt that is longer than the text encoder reads at once. ``prompt``: what to call it."""
    return (
        f"{prompt} is longer than the base reads at once: it was read in {counted(chunks, 'chunk')}. "
        "The later parts count less."
    )


def seeded_noise(family: Family, seeds: Sequence[int], width: int, height: int) -> torch.Tensor:
    """Draw standard normal latents (B, C, h, w), fp32 on the CPU, with a seed for each image."""
    shape = family.latents.shape(width, height)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def draw_latents(
    family: Family,
    pipeline: Any,
    *,
    text: Text,
    negative: Text,
    control: torch.Tensor,
    seeds: Sequence[int],
    options: SamplingOptions,
    init: InitLatents | None = None,
    second: SecondControlNet | None = None,
    control_vae: Any = None,
    token: CancelToken | None = None,
    on_step: Callable[[int], None] | None = None,
    on_latents: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Sample B latents (B, 4, h, w).

    Args:
        pipeline: from ``family.pipeline``; VAE and text encoder may be left out of it. It is left as it was.
        text, negative: from ``family.encode_text``, B rows each (``negative`` may have one row for all).
        control: control images, uint8 RGB (B, H, W, 3).
        init: draw over these images.
        control_vae: the base's VAE, from ``family.control_vae``; other families need none.
        on_step: called with the number of finished steps.
        on_latents: called after each step with the latents so far, noisy, (B, 4, h, w).

    Raises:
        Cancelled: the token is cancelled; checked between two steps.
        UserError: the result is not finite, or there is no such sampler.
    """
    denoiser, count = family.denoiser_of(pipeline), len(seeds)
    device, (height, width) = denoiser.device, control.shape[1:3]
    place = {"device": device, "dtype": denoiser.dtype}
    arguments = family.prompt_arguments(
        {name: rows.expand(count, *rows.shape[1:]).to(**place) for name, rows in text.items()},
        {name: rows.expand(count, *rows.shape[1:]).to(**place) for name, rows in negative.items()},
    )
    noise = seeded_noise(family, seeds, width, height).to(**place)
    balance, guided = samplers.balance(options.balance), is_guided(family.facts, options.guidance)
    soft = samplers.is_soft(balance, guided)
    nets = [pipeline.controlnet, second.net] if second else [pipeline.controlnet]
    maps = [control, second.control] if second else [control]
    controls = [family.control_for(net, one, control_vae) for net, one in zip(nets, maps, strict=True)]
    strengths = [float(options.strength), *([float(second.strength)] if second else [])]
    images = [one.to(device=device, dtype=net.dtype) for one, net in zip(controls, nets, strict=True)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(samplers.scheduled(family, pipeline, options.sampler, options.steps))
        stack.enter_context(rescaled(pipeline, denoiser, options.guidance_rescale))
        for net in nets:
            stack.enter_context(_adapted(family, net, denoiser, soft and not options.guess))
        if second:
            stack.enter_context(_together(pipeline, nets))
        start, size = SamplingStart(family, pipeline, noise, options.steps, init), noise.shape[-2:]

        def after_step(drawing: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if on_step:
                on_step(step // drawing.scheduler.order + 1)
            if token:
                token.raise_if_cancelled()
            now = family.from_pipeline(values["latents"], *size)
            now = start.keep_unmasked(drawing.scheduler, now, step)
            if on_latents:
                on_latents(family.unit_variance(drawing.scheduler, now))
            return {**values, "latents": family.to_pipeline(now)}

        drawn = start.pipeline(
            **arguments,
            **start.arguments(images if second else images[0]),
            width=width,
            height=height,
            # Ancestral samplers add noise at every step; it comes from the image's own seed, too.
            generator=[torch.Generator().manual_seed(seed + 1) for seed in seeds],
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            controlnet_conditioning_scale=strengths if second else strengths[0],
            control_guidance_start=[options.start, 0.0] if second else options.start,
            control_guidance_end=[options.end, 1.0] if second else options.end,
            guess_mode=options.guess or (balance.prompt_side_only and guided),
            callback_on_step_end=after_step,
            output_type="latent",
        ).images
    latents = family.from_pipeline(drawn, *size)
    if not torch.isfinite(latents).all():
        raise UserError(
            "The image could not be generated.",
            "It contains NaN or infinity.",
            "Choose an earlier checkpoint, a lower strength or guidance scale, or fp32.",
        )
    return latents


def is_guided(facts: FamilyFacts, guidance: float) -> bool:
    """Whether there is classifier-free guidance at this scale."""
    return guidance > 1 and not facts.guidance_embedded


@contextlib.contextmanager
def _together(pipeline: Any, nets: Sequence[Any]) -> Iterator[None]:
    """Within the block the pipeline draws with several ControlNets."""
    from diffusers import MultiControlNetModel

    alone = pipeline.controlnet
    pipeline.register_modules(controlnet=MultiControlNetModel(nets))
    try:
        yield
    finally:
        pipeline.register_modules(controlnet=alone)


@contextlib.contextmanager
def _adapted(family: Family, controlnet: Any, denoiser: Any, soft: bool) -> Iterator[None]:
    """Within the block the ControlNet's outputs are in the denoiser's precision and, if ``soft``, have soft weights.

    A net whose weights are not all in the denoiser's precision computes under autocast. That is a Control-LoRA of a run
    whose base is kept in fp8: it shares the base's fp8 weights.
    """
    mixed = {weight.dtype for weight in controlnet.parameters()} != {denoiser.dtype}
    if not mixed and not soft:
        yield
        return
    original = controlnet.forward

    def forward(*arguments: Any, **named: Any) -> Any:
        options = {**named, "return_dict": False, **({"guess_mode": False} if soft else {})}
        with torch.autocast(denoiser.device.type, dtype=denoiser.dtype, enabled=mixed):
            outputs = original(*arguments, **options)
        return family.map_residuals(outputs, weighted)

    def weighted(residuals: list[torch.Tensor]) -> list[torch.Tensor]:
        weights = samplers.soft_weights(len(residuals)) if soft else [1.0] * len(residuals)
        return [(one * weight).to(denoiser.dtype) for one, weight in zip(residuals, weights, strict=True)]

    controlnet.forward = forward
    try:
        yield
    finally:
        del controlnet.forward  # the class has its own


@torch.no_grad()
def decode(
    family: Family, vae: Any, latents: Iterable[torch.Tensor], token: CancelToken | None = None
) -> list[Image.Image]:
    """Decode latents, (B, 4, h, w) or several (4, h, w), to RGB images. The VAE should be in fp32."""
    images = []
    for one in latents:
        if token:
            token.raise_if_cancelled()
        pixels = family.decode_latents(vae, one[None].to(vae.device))[0].float()
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        images.append(Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()))
    return images


class LivePreview:
    """Shows the first image of a batch while it is drawn: its latents, downscaled, through the VAE.

    It skips steps so that previews take at most ``PREVIEW_TIME`` of the time.
    """

    def __init__(self, family: Family, vae: Any, show: Callable[[Image.Image], None]) -> None:
        self._family, self._vae, self._show = family, vae, show
        self._seconds, self._ended = 0.0, time.perf_counter()

    def __call__(self, latents: torch.Tensor) -> None:
        began = time.perf_counter()
        if began - self._ended < self._seconds / PREVIEW_TIME:
            return
        first = latents[:1].float()
        shrink = max(first.shape[-2:]) / PREVIEW_LATENTS
        if shrink > 1:
            size = [max(1, round(side / shrink)) for side in first.shape[-2:]]
            first = torch.nn.functional.interpolate(first, size=size, mode="area")
        self._show(decode(self._family, self._vae, first)[0])
        self._ended = time.perf_counter()
        self._seconds = self._ended - began
