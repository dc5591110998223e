"""Stable Diffusion 2.x: OpenCLIP's text encoder; some predict noise (2-base), some velocity (2 and 2.1 at 768 px).

Which, and whether the last step is pure noise (zero terminal SNR), stands in the base's own scheduler config.
"""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionControlNetImg2ImgPipeline, StableDiffusionControlNetPipeline

from engine.families.base import Family
from engine.families.facts import SD2
from engine.families.sd1 import NO_SAFETY_CHECKER, plain_pipeline


class StableDiffusion2(Family):
    facts = SD2
    pipeline_class = StableDiffusionControlNetPipeline
    image_pipeline_class = StableDiffusionControlNetImg2ImgPipeline
    pipeline_options = NO_SAFETY_CHECKER

    def matches(self, index: dict[str, Any], unet: dict[str, Any]) -> bool:
        return plain_pipeline(index, unet) and bool(unet.get("use_linear_projection", False))
