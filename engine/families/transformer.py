"""What bases with a transformer and flow matching share: their ControlNets read latents of the control image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from engine.errors import UserError
from engine.families.base import Family
from engine.families.flow import FlowMatching
from engine.families.flow_pipeline import FlowPipeline
from engine.families.noise import NoiseProcess
from engine.families.parts import load_part
from engine.families.residuals import Residuals, each
from engine.families.text_encoding import Text

OWN = {
    "EulerDiscreteScheduler": "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler": "FlowMatchHeunDiscreteScheduler",
}
"""Samplers that diffusers has as classes of their own for flow matching."""
SHIFTED = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler")
"""Samplers that read the sigmas of flow matching as an option."""


class TransformerFamily(Family):
    """``predict`` in two parts, the net's residuals and the denoiser's prediction, which sampling scales between."""

    @abstractmethod
    def residuals(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: Text,
        control: torch.Tensor,
    ) -> Residuals:
        """What the control net adds behind each of the denoiser's blocks. Arguments: see ``predict``."""

    @abstractmethod
    def denoise(
        self,
        denoiser: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: Text,
        residuals: Residuals | None,
    ) -> torch.Tensor:
        """The denoiser's prediction of the flow (B, C, h, w), with residuals from ``residuals`` or without control."""

    def control_outputs(self, net: Any, generator: torch.Generator) -> list[torch.Tensor]:
        """For 8 x 8 latents and 8 tokens of text."""
        config, channels = net.config, self.latents.channels
        noisy = torch.randn((1, channels, 8, 8), generator=generator)
        read, of_rgb = self.facts.control_files.control_channels(config), self.facts.control_files.is_of_rgb(config)
        side = 8 * self.latents.factor if of_rgb else 8
        control = torch.randn((1, read, side, side), generator=generator)
        text = {
            "hidden": torch.randn((1, 8, config.joint_attention_dim), generator=generator),
            "pooled": torch.randn((1, config.pooled_projection_dim), generator=generator),
        }
        outputs = self.net_outputs(net, noisy, torch.tensor([0.5]), text, control)
        return [one for kind in outputs for one in kind or ()]

    def net_outputs(
        self, net: Any, noisy: torch.Tensor, timesteps: torch.Tensor, text: Text, control: torch.Tensor
    ) -> Sequence[Sequence[torch.Tensor] | None]:
        """The outputs of a control net that needs no denoiser: for each kind of the denoiser's blocks, first first."""
        raise NotImplementedError

    # Text: the encoders of these bases read a caption at once, and what is beyond is cut off.

    def encode_long(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], chunks: int, clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        return self.encode_text(tokenizer, text_encoder, captions, clip_skip)

    def chunk_counts(self, tokenizer: Any, captions: Sequence[str]) -> list[int]:
        return [1] * len(captions)

    def text_length(self, text: Text) -> int:
        return int(text["hidden"].shape[-2])

    def repeated_text(self, text: Text, tokens: int) -> dict[str, torch.Tensor]:
        return dict(text)

    # Prediction

    def predict(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: dict[str, torch.Tensor],
        control: torch.Tensor | None,
    ) -> torch.Tensor:
        if control is None:
            return self.denoise(denoiser, noisy, timesteps, text, None)
        found = self.residuals(denoiser, net, noisy, timesteps, text, control)
        dtype = denoiser.dtype  # read once: diffusers walks over the whole net for it
        return self.denoise(denoiser, noisy, timesteps, text, each(found, lambda residual: residual.to(dtype)))

    def map_residuals(self, outputs: Any, change: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> Any:
        counts = [len(kind or ()) for kind in outputs]
        changed = iter(change([one for kind in outputs for one in kind or ()]))
        return tuple([next(changed) for _ in range(count)] if count else None for count in counts)

    def load_scheduler(self, base: str) -> Any:
        return load_part(FlowMatchEulerDiscreteScheduler, base, "scheduler", None)

    def noise_process(self, base: str) -> NoiseProcess:
        return FlowMatching(self.load_scheduler(base), patch=self.facts.patch)

    # Control

    def encode_control(self, maps: torch.Tensor, vae: Any = None) -> torch.Tensor:
        """The mean of the control images' latents as the control net reads them, (B, C, h, w)."""
        images = maps.permute(0, 3, 1, 2).to(vae.device).float() / 127.5 - 1
        return self.control_latents(vae, images).to(maps.device)

    def control_latents(self, vae: Any, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) of RGB control images in -1..1 (B, 3, H, W)."""
        return self.encode_mean(vae, images)

    # Sampling

    def default_scheduler(self, base: str, schedule: Mapping[str, Any]) -> Any:
        return self.load_scheduler(base)

    def pipeline(
        self,
        base: str,
        controlnet: Any,
        dtype: torch.dtype,
        schedule: Mapping[str, Any] = MappingProxyType({}),
        **resident: Any,
    ) -> FlowPipeline:
        return FlowPipeline(self, controlnet, **self.sampling_parts(base, dtype, schedule, resident))

    def set_timesteps(self, pipeline: Any, steps: int, latents: torch.Tensor) -> None:
        pipeline.set_timesteps(steps, latents)

    def image_pipeline(self, pipeline: Any) -> Any:
        return pipeline  # it starts from noise or from an image

    def prompt_arguments(self, text: Text, negative: Text) -> dict[str, Any]:
        return {"text": dict(text), "negative": dict(negative)}

    def sampling_scheduler(self, name: str, config: Any, options: Mapping[str, Any]) -> Any:
        """A sampler with the base's own shift.

        Raises:
            UserError: it is made for noise schedules.
        """
        if name in OWN:
            return getattr(diffusers, OWN[name]).from_config(config)
        if name not in SHIFTED:
            title = name.removesuffix("Scheduler").removesuffix("Discrete").removesuffix("Multistep")
            raise UserError(
                f"The sampler {title} cannot be used with this base.",
                "The base was trained by flow matching, and this sampler is made for other noise schedules.",
                "Choose Euler, Heun, UniPC or DPM++ 2M.",
            )
        flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        flow |= (
            {"use_dynamic_shifting": True} if config.get("use_dynamic_shifting") else {"flow_shift": config["shift"]}
        )
        return getattr(diffusers, name)(num_train_timesteps=config["num_train_timesteps"], **flow)

    def add_sampling_noise(
        self, scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        sigma = (timesteps.to(latents.device, latents.dtype) / scheduler.config.num_train_timesteps).view(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def unit_variance(self, scheduler: Any, latents: torch.Tensor) -> torch.Tensor:
        """Latents of deviation 1 and noise of deviation 1, mixed as 1 - s to s, have the deviation of both together."""
        if getattr(scheduler, "step_index", None) is None:
            return latents
        sigma = float(scheduler.sigmas[min(scheduler.step_index, len(scheduler.sigmas) - 1)])
        return latents / (sigma**2 + (1 - sigma) ** 2) ** 0.5


def own_config(net: Any) -> Any:
    """The config of a control net, which accelerate may have wrapped."""
    return getattr(net, "module", net).config


def with_weights_of(denoiser: Any, net: Any) -> Any:
    """A new control net in fp32 with the denoiser's weights wherever it has layers of the same names."""
    own = net.state_dict()
    net.load_state_dict({name: w for name, w in denoiser.state_dict().items() if name in own}, strict=False)
    return net.float()
