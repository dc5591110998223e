"""From prompts and control images to images, one stage at a time. Shared by Try it and by the previews of a run.

Noise is drawn on the CPU in fp32, one generator an image: the same seed gives the same image in any batch, and very
nearly the same one on any card. Images are decoded in fp32, one at a time: the VAE is where half precision breaks and
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
from engine.errors import UserError
from engine.families.registry import Family
from engine.inference import samplers
from engine.jobs.control import CancelToken

Text = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Drawing:
    """How images of one batch are drawn."""

    steps: int = 20
    guidance: float = 7.5
    strength: float = 1.0
    """Scale of the control; 0 draws as if there were none."""
    sampler: str = samplers.DEFAULT
    start: float = 0.0
    """Share of the steps after which the control begins to speak, 0..1."""
    end: float = 1.0
    """Share of the steps after which it is silent, 0..1."""
    guess: bool = False
    """Guess mode of Zhang et al. 2023: the net speaks on the prompt's side only, weakened towards the outer layers."""
    balance: str = "balanced"
    """Of ``engine.inference.samplers.BALANCES``."""


@dataclass(frozen=True)
class Beginning:
    """Images that are drawn over. ``latents``: scaled, (B, 4, h, w)."""

    latents: torch.Tensor
    change: float
    """How much is drawn anew, 0..1: the share of the steps that are done."""
    mask: torch.Tensor | None = None
    """(B, 1, h, w): 1 where it is drawn anew, 0 where the image stays. None: everywhere."""


@dataclass(frozen=True)
class Beside:
    """A second ControlNet. ``control``: its control images, uint8 RGB (B, H, W, 3)."""

    net: Any
    control: torch.Tensor
    strength: float = 1.0


def fit_control(image: Image.Image | np.ndarray, width: int, height: int, nearest: bool = False) -> torch.Tensor:
    """A control image in the size of the drawing: uint8 RGB (height, width, 3).

    One of another size is cropped to the aspect ratio around its centre and resized, as in training.

    Args:
        image: an image, or uint8 RGB (h, w, 3).
        nearest: for maps whose values are labels and must not be mixed.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    crop = shared_crop(picture.width, picture.height, (width, height))
    pixels = np.asarray(apply_crop(picture.convert("RGB"), crop, nearest))
    return torch.from_numpy(pixels.copy())


def in_pieces(prompt: str, pieces: int) -> str:
    """What is said of a prompt that is longer than the text encoder takes at once; ``prompt`` names it."""
    return (
        f"{prompt} is longer than the base reads at once: it was read in {pieces} pieces. "
        "What stands further back counts less."
    )


def seeded_noise(family: Family, seeds: Sequence[int], width: int, height: int) -> torch.Tensor:
    """Standard normal latents (B, C, h, w) fp32 on the CPU; each image has its own seed."""
    shape = family.latents.shape(width, height)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def draw_latents(
    family: Family,
    pipeline: Any,
    text: Text,
    negative: Text,
    control: torch.Tensor,
    seeds: Sequence[int],
    how: Drawing,
    token: CancelToken | None = None,
    on_step: Callable[[int], None] | None = None,
    beginning: Beginning | None = None,
    beside: Beside | None = None,
    on_latents: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Sample B latents (B, 4, h, w).

    Args:
        pipeline: from ``family.pipeline``; VAE and text encoder may be left out of it. It is put back as it was.
        text, negative: from ``family.encode_text``, B rows each (``negative`` may have one row for all).
        control: control images, uint8 RGB (B, H, W, 3).
        on_step: called with the number of finished steps.
        on_latents: called after each step with what is there so far, noisy, (B, 4, h, w).

    Raises:
        Cancelled: the token says so; between two steps.
        UserError: the result is not finite, or there is no such sampler.
    """
    denoiser, ours = family.denoiser_of(pipeline), pipeline.controlnet
    device, count = denoiser.device, len(seeds)
    height, width = control.shape[1:3]
    place = {"device": device, "dtype": denoiser.dtype}
    arguments = family.prompt_arguments(
        {name: rows.expand(count, *rows.shape[1:]).to(**place) for name, rows in text.items()},
        {name: rows.expand(count, *rows.shape[1:]).to(**place) for name, rows in negative.items()},
    )
    noise = seeded_noise(family, seeds, width, height).to(**place)
    balance = samplers.balance(how.balance)
    nets = [ours, beside.net] if beside else [ours]
    maps = [family.encode_control(one) for one in ([control, beside.control] if beside else [control])]
    strengths = [float(how.strength), *([float(beside.strength)] if beside else [])]
    images = [one.to(device=device, dtype=net.dtype) for one, net in zip(maps, nets, strict=True)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(samplers.scheduled(pipeline, how.sampler, how.steps))
        for net in nets:
            stack.enter_context(_adapted(net, denoiser, balance.soft and not how.guess))
        if beside:
            stack.enter_context(_together(pipeline, nets))
        start = _Start(family, pipeline, noise, how.steps, beginning)

        def after_step(drawing: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if on_step:
                on_step(step + 1)
            if token:
                token.raise_if_cancelled()
            values["latents"] = start.keep_unmasked(drawing.scheduler, values["latents"], step)
            if on_latents:
                on_latents(_of_unit_size(drawing.scheduler, values["latents"]))
            return values

        latents = start.pipeline(
            **arguments,
            **start.arguments(images if beside else images[0]),
            width=width,
            height=height,
            # Samplers that add noise on the way draw it from the image's own seed, too.
            generator=[torch.Generator().manual_seed(seed + 1) for seed in seeds],
            num_inference_steps=how.steps,
            guidance_scale=how.guidance,
            controlnet_conditioning_scale=strengths if beside else strengths[0],
            control_guidance_start=[how.start, 0.0] if beside else how.start,
            control_guidance_end=[how.end, 1.0] if beside else how.end,
            guess_mode=how.guess or balance.prompt_side_only,
            callback_on_step_end=after_step,
            output_type="latent",
        ).images
    if not torch.isfinite(latents).all():
        raise UserError(
            "The image came out empty.",
            "The numbers overflowed while it was drawn.",
            "Choose an earlier checkpoint, a lower strength or guidance scale, or fp32.",
        )
    return latents


class _Start:
    """Where sampling begins: at noise, or at an image with as much noise on it as is to be drawn anew."""

    def __init__(
        self, family: Family, pipeline: Any, noise: torch.Tensor, steps: int, beginning: Beginning | None
    ) -> None:
        self.pipeline, self._latents, self._mask = pipeline, noise, None
        self._change: float | None = None
        if beginning is None:
            return
        self.pipeline = family.image_pipeline(pipeline)
        self._change = min(1.0, max(beginning.change, 1.01 / steps))  # at least one step
        scheduler = self.pipeline.scheduler
        scheduler.set_timesteps(steps, device=noise.device)
        self._timesteps, _ = self.pipeline.get_timesteps(steps, self._change, noise.device)
        self._clean, self._noise = beginning.latents.to(noise), noise
        self._latents = scheduler.add_noise(self._clean, noise, self._timesteps[:1].repeat(len(noise)))
        self._mask = beginning.mask.to(noise) if beginning.mask is not None else None

    def arguments(self, images: Any) -> dict[str, Any]:
        """What the two kinds of pipeline name differently."""
        if self._change is None:
            return {"image": images, "latents": self._latents}
        return {"image": self._clean, "control_image": images, "latents": self._latents, "strength": self._change}

    def keep_unmasked(self, scheduler: Any, latents: torch.Tensor, step: int) -> torch.Tensor:
        """What is not to be drawn anew is the image again, with the noise of the next step.

        As diffusers' ControlNet inpainting pipeline does it for bases without channels of their own for a mask.
        """
        if self._mask is None:
            return latents
        kept = self._clean
        if step + 1 < len(self._timesteps):
            kept = scheduler.add_noise(kept, self._noise, self._timesteps[step + 1 : step + 2].repeat(len(kept)))
        return self._mask * latents + (1 - self._mask) * kept


def _of_unit_size(scheduler: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents of any scheduler, noisy, at the size that they have for a VAE.

    Some count the noise on top of the image (its deviation is sigma), others mix the two.
    """
    if float(scheduler.init_noise_sigma) <= 1.001 or getattr(scheduler, "step_index", None) is None:
        return latents
    sigma = float(scheduler.sigmas[min(scheduler.step_index, len(scheduler.sigmas) - 1)])
    return latents / (sigma**2 + 1) ** 0.5


@torch.no_grad()
def decode(
    family: Family, vae: Any, latents: Iterable[torch.Tensor], token: CancelToken | None = None
) -> list[Image.Image]:
    """Latents (B, 4, h, w), or several (4, h, w), to RGB images. The VAE should be in fp32."""
    pictures = []
    for one in latents:
        if token:
            token.raise_if_cancelled()
        pixels = family.decode_latents(vae, one[None].to(vae.device))[0].float()
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        pictures.append(Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()))
    return pictures


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
def _adapted(controlnet: Any, denoiser: Any, soft: bool) -> Iterator[None]:
    """The net as this drawing wants it: in the UNet's precision, and with soft weights.

    While training, fp32 master weights meet a UNet in half precision: then the ControlNet alone runs under autocast,
    the scheduler and the UNet outside of it.
    """
    mixed = {weight.dtype for weight in controlnet.parameters()} != {denoiser.dtype}
    if not mixed and not soft:
        yield
        return
    original, patched = controlnet.forward, "forward" in vars(controlnet)  # accelerate patches it, too

    def forward(*arguments: Any, **named: Any) -> Any:
        options = {**named, "return_dict": False, **({"guess_mode": False} if soft else {})}
        with torch.autocast(denoiser.device.type, dtype=denoiser.dtype, enabled=mixed):
            down, middle = original(*arguments, **options)
        outputs = [*down, middle]
        weights = samplers.soft_weights(len(outputs)) if soft else [1.0] * len(outputs)
        *down, middle = [(one * weight).to(denoiser.dtype) for one, weight in zip(outputs, weights, strict=True)]
        return down, middle

    controlnet.forward = forward
    try:
        yield
    finally:
        if patched:
            controlnet.forward = original
        else:
            del controlnet.forward
