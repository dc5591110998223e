"""A made-up family: flow matching, latents with a shift, the denoiser in a folder "transformer".

It trains the tiny UNet of another family, so it needs no class of its own in diffusers. What it overrides, a real
flow-matching transformer has to override, too.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    UniPCMultistepScheduler,
)

from engine.families import facts, files, registry
from engine.families.flow import FlowMatching, static_shift
from engine.families.latents import LatentSpace
from engine.families.noise import NoiseProcess
from engine.families.stable_diffusion import StableDiffusion1

SHIFT = 3.0
MADE_UP = replace(
    facts.SD1,
    name="made_up",
    title="Made Up",
    text_width=64,
    file_tag="madeup",
    version_marks=("madeup",),
    denoiser="transformer",
    latents=LatentSpace(shift=0.1),
)


class Flow(FlowMatching):
    """Flow matching with a sampler that the other families' pipelines can use."""

    def __init__(self) -> None:
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)
        super().__init__(scheduler, static_shift(SHIFT))


class MadeUp(StableDiffusion1):
    facts = MADE_UP

    def matches(self, index: dict[str, Any], config: dict[str, Any]) -> bool:
        return True  # no other family has a "transformer"

    def noise_process(self, base: str) -> NoiseProcess:
        return Flow()

    def predict(
        self, denoiser: Any, net: Any, noisy: torch.Tensor, timesteps: torch.Tensor, *rest: Any
    ) -> torch.Tensor:
        return super().predict(denoiser, net, noisy, 1000 * timesteps, *rest)

    def denoiser_of(self, pipeline: Any) -> Any:
        return pipeline.unet

    def pipeline_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        return {"unet": parts["transformer"], **{name: part for name, part in parts.items() if name != "transformer"}}


class EncodedControl:
    """diffusers' pipeline without its changes to the control image: latents stay as they are."""

    def prepare_image(self, image: Any, **how: Any) -> Any:
        return torch.cat([image, image]) if how["do_classifier_free_guidance"] and not how["guess_mode"] else image

    prepare_control_image = prepare_image


class EncodedPipeline(EncodedControl, StableDiffusionControlNetPipeline):
    pass


class EncodedImagePipeline(EncodedControl, StableDiffusionControlNetImg2ImgPipeline):
    pass


class Encoded(MadeUp):
    """Its control net reads latents of the control image, and its denoiser tokens of 2 x 2 latents."""

    facts = replace(MADE_UP, control_is_encoded=True)
    pipeline_class = EncodedPipeline
    image_pipeline_class = EncodedImagePipeline

    def new_controlnet(self, denoiser: Any, blocks: int = 0) -> ControlNetModel:
        channels = self.latents.channels
        net = ControlNetModel.from_unet(
            denoiser, conditioning_embedding_out_channels=(16,), conditioning_channels=channels
        )  # one width: nothing shrinks
        return net.float()

    def encode_control(self, maps: torch.Tensor, vae: Any = None) -> torch.Tensor:
        images = maps.permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.encode_mean(vae, images.to(vae.device)).to(maps.device)

    def predict(self, denoiser: Any, net: Any, noisy: torch.Tensor, *rest: Any) -> torch.Tensor:
        tokens = self.latents.pack(noisy)
        return super().predict(denoiser, net, self.latents.unpack(tokens, *noisy.shape[2:]), *rest)


class PackedLatents:
    """diffusers' pipeline with the interface of a transformer's: latents go in, to the callback and out as tokens."""

    def __call__(self, *, latents: torch.Tensor, width: int, height: int, callback_on_step_end: Any, **how: Any) -> Any:
        space, size = Packed.facts.latents, (height // 8, width // 8)
        assert latents.ndim == 3, "tokens"

        def after_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            told = callback_on_step_end(pipeline, step, timestep, {"latents": space.pack(values["latents"])})
            return {**values, "latents": space.unpack(told["latents"], *size)}

        how |= {"width": width, "height": height, "callback_on_step_end": after_step}
        made = super().__call__(latents=space.unpack(latents, *size), **how)  # type: ignore[misc]
        return SimpleNamespace(images=space.pack(made.images))


class PackedPipeline(PackedLatents, StableDiffusionControlNetPipeline):
    pass


class PackedImagePipeline(PackedLatents, StableDiffusionControlNetImg2ImgPipeline):
    pass


class Packed(MadeUp):
    """Its pipelines take and return latents as tokens."""

    facts = replace(MADE_UP, packs_latents=True)
    pipeline_class = PackedPipeline
    image_pipeline_class = PackedImagePipeline


def register(patch: pytest.MonkeyPatch, family: type[MadeUp] = MadeUp) -> None:
    """Add the family to the two lists, as a line in each file would."""
    known = (*facts.FACTS, family.facts)
    for module in (facts, files):
        patch.setattr(module, "FACTS", known)
    patch.setattr(registry, "FAMILIES", (*registry.FAMILIES, family()))


def build(tiny_base: Path, folder: Path) -> Path:
    """The tiny base as one of this family."""
    shutil.copytree(tiny_base, folder)
    (folder / "unet").rename(folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["transformer"] = index.pop("unet")
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    vae = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    (folder / "vae" / "config.json").write_text(json.dumps(vae | {"shift_factor": 0.1}), encoding="utf-8")
    return folder
