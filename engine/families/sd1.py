"""Stable Diffusion 1.x: one CLIP text encoder, noise prediction. The bundled tiny base is of this family."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionControlNetImg2ImgPipeline, StableDiffusionControlNetPipeline

from engine.families.base import Family
from engine.families.facts import SD1

NO_SAFETY_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def plain_pipeline(index: dict[str, Any], unet: dict[str, Any]) -> bool:
    """One text encoder and latents of four channels: a Stable Diffusion 1 or 2 that is not made for inpainting."""
    return (
        "text_encoder" in index
        and "text_encoder_2" not in index
        and unet.get("_class_name") == "UNet2DConditionModel"
        and unet.get("in_channels", 4) == 4
    )


class StableDiffusion1(Family):
    facts = SD1
    pipeline_class = StableDiffusionControlNetPipeline
    image_pipeline_class = StableDiffusionControlNetImg2ImgPipeline
    pipeline_options = NO_SAFETY_CHECKER

    def matches(self, index: dict[str, Any], unet: dict[str, Any]) -> bool:
        # SD 2.x has the same class names; its linear projections tell it apart.
        return plain_pipeline(index, unet) and not unet.get("use_linear_projection", False)
