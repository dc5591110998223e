"""The interface of a base model family: everything that differs between bases is behind it.

Shapes: B images of H x W pixels, latents (B, C, h, w). What is known of a family without torch: facts.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL

from engine.families.latents import LatentSpace
from engine.families.layers import Layers
from engine.families.noise import NoiseProcess
from engine.families.parts import load_part, read_component_config
from engine.families.text_encoding import Text, TextEncoding
from engine.families.tiles import whole_or_in_tiles
from engine.families.unsupported import BaseParts

DEFAULT_SCHEDULER = "UniPCMultistepScheduler"


class Family(TextEncoding):
    """How the bases of one family are loaded, trained under control, and sampled from.

    Methods that are not abstract suit a base with an ``AutoencoderKL`` and a ControlNet pipeline in diffusers."""

    pipeline_class: Any
    """The diffusers pipeline for sampling with a ControlNet."""
    image_pipeline_class: Any
    """The one that starts from an image."""
    pipeline_options: dict[str, Any]
    """Arguments of their constructors besides the parts."""

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def title(self) -> str:
        return self.facts.title

    @property
    def layers(self) -> Layers:
        """Module names of the denoiser and of its control net."""
        return self.facts.layers

    @property
    def latents(self) -> LatentSpace:
        """Channels and size of the latents of every base of this family. Their scale: ``latent_space``."""
        return self.facts.latents

    @abstractmethod
    def matches(self, index: dict[str, Any], config: dict[str, Any]) -> bool:
        """Whether a base with this model_index.json and denoiser config belongs here."""

    def why_unsupported(self, parts: BaseParts) -> str:
        """Why a base that matches cannot be trained for all the same, as a sentence for people; "" if it can be."""
        return ""

    # Latents

    def load_vae(self, base: str) -> torch.nn.Module:
        """The VAE, frozen, always in fp32: in half precision SDXL's overflows, and its images are black."""
        return load_part(AutoencoderKL, base, "vae", torch.float32).eval().requires_grad_(False)

    def latent_space(self, base: str) -> LatentSpace:
        """The latents of a base's VAE, from its config."""
        return LatentSpace.from_config(read_component_config(base, "vae", "config.json"))

    def encode_images(self, vae: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the latents of RGB images in -1..1 (B, 3, H, W), both (B, C, h, w), unscaled.

        One large image that does not fit into memory is encoded in tiles (``tiles.py``).
        """

        def encode() -> torch.Tensor:
            posterior = vae.encode(images).latent_dist
            return torch.stack([posterior.mean, posterior.logvar])

        if len(images) > 1:  # several that do not fit are tried one by one first
            mean, logvar = encode()
        else:
            mean, logvar = whole_or_in_tiles(vae, max(images.shape[-2:]), self.latents.factor, encode)
        return mean, logvar

    def encode_mean(self, vae: Any, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) of RGB images in -1..1 (B, 3, H, W): the mean of the VAE's posterior."""
        return LatentSpace.from_config(vae.config).scaled(self.encode_images(vae, images)[0])

    def decode_latents(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """RGB images, about -1..1, (B, 3, H, W), from scaled latents (B, C, h, w).

        A large image that does not fit into memory is decoded in tiles (``tiles.py``)."""
        space = LatentSpace.from_config(vae.config)
        unscaled = space.unscaled(latents.to(vae.dtype))
        side = max(latents.shape[-2:]) * space.factor
        return whole_or_in_tiles(vae, side, space.factor, lambda: vae.decode(unscaled).sample)

    def to_pipeline(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) as diffusers' pipelines take and return them."""
        return self.latents.pack(latents) if self.facts.packs_latents else latents

    def from_pipeline(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The inverse of ``to_pipeline``. ``height``, ``width``: of the latents."""
        return self.latents.unpack(latents, height, width) if self.facts.packs_latents else latents

    # Denoiser and control net

    @abstractmethod
    def load_denoiser(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        """The net that predicts noise or velocity, frozen."""

    def denoiser_config(self, base: str) -> dict[str, Any]:
        """The denoiser's config.json."""
        return read_component_config(base, self.facts.denoiser, "config.json")

    def denoiser_of(self, pipeline: Any) -> Any:
        """The denoiser of a pipeline from ``pipeline``."""
        return getattr(pipeline, self.facts.denoiser)

    def default_resolution(self, base: str) -> int:
        """Side in pixels of the images that the base was trained on."""
        return int(self.denoiser_config(base).get("sample_size", 64)) * self.latents.factor

    @abstractmethod
    def noise_process(self, base: str) -> NoiseProcess:
        """How training adds noise to latents and what the denoiser predicts, from the base's scheduler config."""

    @abstractmethod
    def new_controlnet(self, denoiser: Any, blocks: int = 0) -> Any:
        """A control net in fp32 that starts as a copy of the denoiser's first layers and adds nothing: outputs zero.

        Args:
            blocks: of a transformer that are copied; 0: the usual number. ``facts.why_not_blocks`` says "" for it.
        """

    def empty_controlnet(self, config: dict[str, Any]) -> Any:
        """A control net of this config, with random weights."""
        return getattr(diffusers, self.facts.net_class).from_config(config)

    @abstractmethod
    def load_controlnet(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> Any:
        """A control net from a diffusers folder.

        Raises:
            UserError: the folder is not one, or is incomplete.
        """

    def control_of(self, stored: torch.Tensor) -> torch.Tensor:
        """Control images as the control net reads them, fp32, from those of a batch.

        Args:
            stored: uint8 RGB (B, H, W, 3); where ``facts.control_is_encoded`` what ``encode_control`` has returned.
        """
        return stored.float() if self.facts.control_is_encoded else self.encode_control(stored)

    def control_vae(self, base: str, device: torch.device) -> Any:
        """What ``encode_control`` encodes with: the base's VAE, on a device; None where control images are pixels."""
        return self.load_vae(base).to(device) if self.facts.control_is_encoded else None

    @abstractmethod
    def encode_control(self, maps: torch.Tensor, vae: Any = None) -> torch.Tensor:
        """Control images as the control net reads them, fp32, on the device of ``maps``.

        Args:
            maps: uint8 RGB (B, H, W, 3).
            vae: the base's, on any device, where ``facts.control_is_encoded``.
        """

    def control_for(self, net: Any, maps: torch.Tensor, vae: Any = None) -> torch.Tensor:
        """Control images as this net reads them; see ``encode_control``."""
        return self.encode_control(maps, vae)

    def for_net(self, config: Mapping[str, Any]) -> Family:
        """The family as a control net of this config needs it, which may read RGB in place of latents."""
        return self

    def decode_control(self, vae: Any, control: torch.Tensor) -> torch.Tensor:
        """What is left of encoded control images (``encode_control``): RGB, about -1..1, (B, 3, H, W)."""
        return self.decode_latents(vae, control)

    @abstractmethod
    def predict(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: dict[str, torch.Tensor],
        control: torch.Tensor | None,
    ) -> torch.Tensor:
        """The denoiser's prediction under control, of the shape of ``noisy``.

        Args:
            net: the control net.
            noisy: noisy latents (B, C, h, w).
            timesteps: (B,), from the base's ``NoiseProcess``.
            text: from ``conditioning``.
            control: from ``encode_control``; None: the denoiser predicts without control.
        """

    @abstractmethod
    def control_outputs(self, net: Any, generator: torch.Generator) -> list[torch.Tensor]:
        """The residuals of a control net for one small input of noise, drawn from ``generator``: fp32, on the CPU."""

    @abstractmethod
    def map_residuals(self, outputs: Any, change: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> Any:
        """A control net's outputs (``return_dict=False``) with its residuals changed, listed outermost layer first."""

    # Sampling

    def default_scheduler(self, base: str, schedule: Mapping[str, Any]) -> Any:
        """The sampler of a pipeline. ``schedule``: of the run that trained the control net; empty: as the base says."""
        process = self.noise_process(base).with_schedule(schedule)
        return self.sampling_scheduler(DEFAULT_SCHEDULER, process.scheduler.config, {})

    def pipeline(
        self,
        base: str,
        controlnet: Any,
        dtype: torch.dtype,
        schedule: Mapping[str, Any] = MappingProxyType({}),
        **resident: Any,
    ) -> Any:
        """A diffusers ControlNet pipeline without safety checker.

        Args:
            schedule: see ``default_scheduler``.
            resident: loaded parts to use as they are (denoiser=, vae=, text_encoder=, tokenizer=, scheduler=). None
                leaves a part out: sampling itself needs neither text encoder nor VAE.
        """
        parts = self.sampling_parts(base, dtype, schedule, resident)
        parts[self.facts.denoiser] = parts.pop("denoiser")
        pipeline = self.pipeline_class(**self.pipeline_parts(parts), controlnet=controlnet, **self.pipeline_options)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sampling_parts(
        self, base: str, dtype: torch.dtype, schedule: Mapping[str, Any], resident: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The parts of a pipeline by name, as ``pipeline`` takes them; those that are not ``resident`` are loaded."""
        load: dict[str, Callable[[], Any]] = {
            "vae": lambda: self.load_vae(base),
            "denoiser": lambda: self.load_denoiser(base, dtype),
            "text_encoder": lambda: self.load_text_encoder(base, dtype),
            "tokenizer": lambda: self.load_tokenizer(base),
            "scheduler": lambda: self.default_scheduler(base, schedule),
        }
        return {name: resident[name] if name in resident else loader() for name, loader in load.items()}

    def set_timesteps(self, pipeline: Any, steps: int, latents: torch.Tensor) -> None:
        """Set the sampler of a pipeline to a number of steps, for such latents (B, C, h, w)."""
        pipeline.scheduler.set_timesteps(steps, device=latents.device)

    def image_pipeline(self, pipeline: Any) -> Any:
        """The pipeline that starts from an image, made of the same parts; nothing is copied."""
        made = self.image_pipeline_class(**{**pipeline.components, **self.pipeline_options})
        made.set_progress_bar_config(disable=True)
        return made

    def pipeline_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Parts under the names that the pipeline's constructor gives them."""
        return parts

    @abstractmethod
    def prompt_arguments(self, text: Text, negative: Text) -> dict[str, torch.Tensor]:
        """Encoded prompts and negative prompts as arguments of the pipeline's call."""

    def sampling_scheduler(self, name: str, config: Any, options: Mapping[str, Any]) -> Any:
        """A sampler: the diffusers scheduler of this class name, with the noise schedule of ``config``.

        With zero terminal SNR it starts at the last timestep, the only one that is pure noise. Source: Lin et al. 2023,
        arXiv 2305.08891, section 3.3.
        """
        if config.get("rescale_betas_zero_snr"):
            options = {"timestep_spacing": "trailing", **options}
        return getattr(diffusers, name).from_config(config, **options)

    def add_sampling_noise(
        self, scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Noisy latents at a sampler's timesteps (B,), to start from an image."""
        return scheduler.add_noise(latents, noise, timesteps)

    def unit_variance(self, scheduler: Any, latents: torch.Tensor) -> torch.Tensor:
        """A sampler's noisy latents, scaled to the standard deviation that the VAE expects.

        Schedulers that count in sigmas add the noise to the latents (deviation sigma), others mix the two.
        """
        if float(scheduler.init_noise_sigma) <= 1.001 or getattr(scheduler, "step_index", None) is None:
            return latents
        sigma = float(scheduler.sigmas[min(scheduler.step_index, len(scheduler.sigmas) - 1)])
        return latents / (sigma**2 + 1) ** 0.5
