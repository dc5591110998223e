"""Sampling under control with bases that were trained by flow matching: one loop for all of them.

It is called like diffusers' ControlNet pipelines, and predicts as training does (``TransformerFamily.predict``), so
both read the same control. diffusers' own pipelines for these bases encode the control image anew for each image, know
no start from an image beside a ControlNet, and differ from base to base. tests/families compares with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from engine.families.facts import FamilyFacts
from engine.families.flow import dynamic_shift
from engine.families.guidance import rescale
from engine.families.residuals import Residuals, each, sum_of
from engine.families.text_encoding import together


class ControlledFlow(Protocol):
    """The methods of a family that sampling uses; see ``TransformerFamily``."""

    facts: FamilyFacts

    def residuals(self, denoiser: Any, net: Any, noisy: Any, timesteps: Any, text: Any, control: Any) -> Residuals: ...

    def denoise(self, denoiser: Any, noisy: Any, timesteps: Any, text: Any, residuals: Any) -> torch.Tensor: ...


@dataclass(frozen=True)
class Sampled:
    images: torch.Tensor
    """Latents (B, C, h, w)."""


class FlowPipeline:
    """The parts of a base with a ControlNet, or several (anything that has ``nets``)."""

    rescale_factor = 0.0
    """Of guidance rescale (``guidance.py``)."""

    def __init__(self, family: ControlledFlow, controlnet: Any, **parts: Any) -> None:
        self.family, self.controlnet = family, controlnet
        self.transformer, self.scheduler = parts["denoiser"], parts["scheduler"]
        self._of_base = dict(self.scheduler.config)
        self.vae, self.text_encoder, self.tokenizer = parts["vae"], parts["text_encoder"], parts["tokenizer"]

    def register_modules(self, **parts: Any) -> None:
        """Replace parts (controlnet=, scheduler=)."""
        for name, part in parts.items():
            setattr(self, name, part)

    def set_timesteps(self, steps: int, latents: torch.Tensor) -> None:
        """Set the sampler to a number of steps, with the base's shift for latents (B, C, h, w) of this size."""
        how: dict[str, Any] = {}
        if self.scheduler.config.get("use_dynamic_shifting"):
            tokens = latents.shape[-2] * latents.shape[-1] // self.family.facts.patch**2
            how["mu"] = math.log(dynamic_shift(self._of_base)(tokens))
        even = self.family.facts.even_sigmas or "mu" in how
        if even and isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            how["sigmas"] = [1 - step / steps for step in range(steps)]  # ends a step above 0, as the others do
        self.scheduler.set_timesteps(steps, device=self.transformer.device, **how)

    def get_timesteps(self, steps: int, strength: float, device: Any) -> tuple[torch.Tensor, int]:
        """The sampler's last timesteps, ``strength`` of them, and for how many steps: to start from an image."""
        skipped = max(steps - min(int(steps * strength), steps), 0)
        self.scheduler.set_begin_index(skipped * self.scheduler.order)
        return self.scheduler.timesteps[skipped * self.scheduler.order :], steps - skipped

    @torch.no_grad()
    def __call__(
        self,
        *,
        text: dict[str, torch.Tensor],
        negative: dict[str, torch.Tensor],
        image: Any,
        latents: torch.Tensor,
        num_inference_steps: int,
        guidance_scale: float,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        control_guidance_start: float | Sequence[float] = 0.0,
        control_guidance_end: float | Sequence[float] = 1.0,
        guess_mode: bool = False,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        control_image: Any = None,
        strength: float | None = None,
        **of_pixels: Any,
    ) -> Sampled:
        """Sample latents.

        Args:
            text, negative: from ``encode_text``, B rows each.
            image: control images from ``encode_control``, one tensor for each net. With ``strength``: the latents to
                start from, and the control images are ``control_image``.
            latents: the noise; with ``strength``, the noisy latents of the first timestep.
            guidance_scale: of classifier-free guidance, or what a base with ``guidance_embedded`` reads.
            guess_mode: the control acts on the prompt's half of classifier-free guidance only.
            strength: share of the steps that are done, to start from an image.
            of_pixels: arguments of diffusers' pipelines without a meaning here: width, height, output_type, generator.
        """
        del of_pixels
        device = self.transformer.device
        self.set_timesteps(num_inference_steps, latents)
        timesteps = self.scheduler.timesteps
        if strength is not None:
            image = control_image
            timesteps, _ = self.get_timesteps(num_inference_steps, strength, device)
        nets = list(getattr(self.controlnet, "nets", [self.controlnet]))
        controls, scales = _each(image, nets), _each(controlnet_conditioning_scale, nets)
        starts, ends = _each(control_guidance_start, nets), _each(control_guidance_end, nets)
        embedded = self.family.facts.guidance_embedded
        guided = guidance_scale > 1 and not embedded
        if embedded:
            text = {**text, "guidance": torch.full((len(latents),), float(guidance_scale), device=latents.device)}
        given = together([negative, text]) if guided else text
        order, count = self.scheduler.order, len(timesteps)
        steps = -(-count // order)  # the last step of a second-order sampler predicts once
        for index, timestep in enumerate(timesteps):
            place = index // order / steps, (index // order + 1) / steps
            active = [
                (net, control, scale)
                for net, control, scale, start, end in zip(nets, controls, scales, starts, ends, strict=True)
                if scale and place[0] >= start and place[1] <= end
            ]
            predicted = self._predict(latents, timestep, given, active, guided, guess_mode)
            if guided:
                without, with_prompt = predicted.chunk(2)
                predicted = without + guidance_scale * (with_prompt - without)
                if self.rescale_factor:
                    predicted = rescale(predicted, with_prompt, self.rescale_factor)
            latents = self.scheduler.step(predicted, timestep, latents, return_dict=False)[0]
            if callback_on_step_end and ((index + 1) % order == 0 or index + 1 == count):
                latents = callback_on_step_end(self, index, timestep, {"latents": latents})["latents"]
        return Sampled(latents)

    def _predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        text: dict[str, torch.Tensor],
        active: Sequence[tuple[Any, torch.Tensor, float]],
        guided: bool,
        prompt_only: bool,
    ) -> torch.Tensor:
        """The denoiser's prediction (B or, if guided, 2 B, C, h, w) under the residuals of all nets together."""
        denoiser, family = self.transformer, self.family
        noisy = torch.cat([latents] * 2 if guided else [latents]).to(denoiser.dtype)
        sigma = timestep.to(noisy.device, torch.float32) / self.scheduler.config.num_train_timesteps
        sigma = sigma.expand(len(noisy))
        found = []
        for net, control, scale in active:
            half = slice(len(noisy) // 2, None) if guided and prompt_only else slice(None)
            copies = 2 if guided and not prompt_only else 1
            read = {name: rows[half] for name, rows in text.items()}
            hints = torch.cat([control] * copies)
            residuals = family.residuals(denoiser, net, noisy[half], sigma[half], read, hints)
            residuals = each(residuals, lambda one, scale=scale: one * scale)  # type: ignore[misc]
            if guided and prompt_only:
                residuals = each(residuals, lambda one: torch.cat([torch.zeros_like(one), one]))
            found.append(residuals)
        return family.denoise(denoiser, noisy, sigma, text, sum_of(found) if found else None)


def _each(value: Any, nets: Sequence[Any]) -> list[Any]:
    """A value for each net."""
    return list(value) if isinstance(value, list | tuple) else [value] * len(nets)
