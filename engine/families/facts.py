"""The facts of each base model family, as one table without torch: forms, presets, estimates and exports read them.

What a family does with torch: base.py, stable_diffusion.py, sdxl.py, sd3.py, flux.py, zimage.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.families import flux_sizes, joint_sizes, zimage_sizes
from engine.families.control_files import ControlFiles
from engine.families.drawing import FLOW_SAMPLERS, SHIFTED_SAMPLERS, ComfyNodes
from engine.families.encoder_sizes import count_clip_and_t5, count_three
from engine.families.family_facts import FamilyFacts
from engine.families.flux_control_files import FLUX_FILES
from engine.families.joint_control_files import JOINT_FILES
from engine.families.latents import LatentSpace
from engine.families.layers import JOINT_TRANSFORMER, SINGLE_STREAM, TWO_STREAM_TRANSFORMER
from engine.families.zimage_control_files import ZIMAGE_FILES

SD1 = FamilyFacts(
    name="sd1",
    title="Stable Diffusion 1.x",
    text_width=768,
    parameters=859_520_964,
    pipeline="StableDiffusionControlNetPipeline",
    file_tag="sd15",
    lora_version=("sd_v1", "stable-diffusion-v1"),
    text_can_learn=True,
    version_marks=("sd14", "sd15", "sd16"),
    outputs=12,
    lora_mark=True,
)
SD2 = FamilyFacts(
    name="sd2",
    title="Stable Diffusion 2.x",
    text_width=1024,
    parameters=865_910_724,
    pipeline="StableDiffusionControlNetPipeline",
    file_tag="sd21",
    lora_version=("sd_v2", "stable-diffusion-v2-512"),
    text_can_learn=True,
    version_marks=("sd21", "2.1"),
    outputs=12,
    lora_mark=True,
    text_layer=2,  # diffusers' folders leave out the layer behind it
    a1111_caveat="AUTOMATIC1111's ControlNet extension computes the attention of Stable Diffusion 2 nets with a "
    "different number of heads, so its images differ slightly from those in this app; ComfyUI's do not.",
)
SDXL = FamilyFacts(
    name="sdxl",
    title="Stable Diffusion XL",
    text_width=2048,
    parameters=2_567_463_684,
    pipeline="StableDiffusionXLControlNetPipeline",
    file_tag="sdxl",
    lora_version=("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    text_can_learn=True,
    version_marks=("xl",),
    outputs=9,
    lora_mark=False,
    safety_checker=False,
    text_layer=2,
    clip_skip_argument=True,
)
SD3 = FamilyFacts(
    name="sd3",
    title="Stable Diffusion 3",
    text_width=4096,
    parameters=2_243_171_520,
    pipeline="StableDiffusion3ControlNetPipeline",
    file_tag="sd3",
    version_marks=("sd3",),
    usual_blocks=6,
    comfy=ComfyNodes(
        encodes=True,
        latent="EmptySD3LatentImage",
        clips=("clip_l.safetensors", "clip_g.safetensors", "t5xxl_fp16.safetensors"),
        sampler="euler",
        scheduler="sgm_uniform",
    ),
    control_argument="control_image",
    card_dtype="bfloat16",
    net_class="SD3ControlNetModel",
    text_class="CLIPTextModelWithProjection",
    card_tag="stable-diffusion-3",
    safety_checker=False,
    text_layer=2,
    samplers=FLOW_SAMPLERS,
    clip_skip_argument=True,
    denoiser="transformer",
    denoiser_class="SD3Transformer2DModel",
    latents=LatentSpace(channels=16, scale=1.5305, shift=0.0609),
    patch=2,
    bucket_step=16,
    flow_matching=True,
    block_counts=(1, 2, 3, 4, 6, 8, 12),
    text_key="joint_attention_dim",
    control_is_encoded=True,
    t5_can_be_left_out=True,
    layers=JOINT_TRANSFORMER,
    count=joint_sizes.count,
    count_encoders=count_three,
    control_files=JOINT_FILES,
)

FLUX = FamilyFacts(
    name="flux",
    title="FLUX.1",
    text_width=4096,
    parameters=11_901_408_320,
    pipeline="FluxControlNetPipeline",
    file_tag="flux",
    version_marks=("flux",),
    usual_blocks=2,
    comfy=ComfyNodes(
        encodes=True,
        latent="EmptySD3LatentImage",
        loader="DualCLIPLoader",
        loader_type="flux",
        clips=("clip_l.safetensors", "t5xxl_fp16.safetensors"),
        guidance="FluxGuidance",
        sampler="euler",
        scheduler="simple",
    ),
    control_argument="control_image",
    card_dtype="bfloat16",
    net_class="FluxControlNetModel",
    card_tag="flux",
    safety_checker=False,
    samplers=SHIFTED_SAMPLERS,
    denoiser="transformer",
    denoiser_class="FluxTransformer2DModel",
    latents=LatentSpace(channels=16, scale=0.3611, shift=0.1159),
    patch=2,
    bucket_step=16,
    flow_matching=True,
    block_counts=(1, 2, 3, 4, 5, 7, 10),
    uneven_blocks=True,
    text_key="joint_attention_dim",
    control_is_encoded=True,
    guidance_embedded=True,
    usual_guidance=3.5,
    layers=TWO_STREAM_TRANSFORMER,
    count=flux_sizes.count,
    count_encoders=count_clip_and_t5,
    control_files=FLUX_FILES,
)

ZIMAGE = FamilyFacts(
    name="zimage",
    title="Z-Image",
    text_width=2560,
    parameters=6_154_908_736,
    pipeline="ZImageControlNetPipeline",
    file_tag="zimage",
    samplers=FLOW_SAMPLERS,
    version_marks=("zimage",),
    usual_blocks=zimage_sizes.CONTROL_LAYERS,
    comfy=ComfyNodes(
        apply="ZImageFunControlnet",
        latent="EmptySD3LatentImage",
        loader="CLIPLoader",
        loader_type="lumina2",
        clips=("qwen_3_4b.safetensors",),
        vae="ae.safetensors",
        base_name="unet_name",
        patches_model=True,
        sampler="euler",
        scheduler="simple",
    ),
    control_argument="control_image",
    card_dtype="bfloat16",
    net_class="ZImageControlNetModel",
    text_class="Qwen3Model",
    card_tag="z-image",
    safety_checker=False,
    text_layer=2,
    denoiser="transformer",
    denoiser_class="ZImageTransformer2DModel",
    latents=LatentSpace(channels=16, scale=0.3611, shift=0.1159),
    even_sigmas=True,
    turbo_steps=8,
    patch=2,
    bucket_step=16,
    flow_matching=True,
    block_counts=(3, 6),
    text_key="cap_feat_dim",
    control_is_encoded=True,
    captions_can_be_hidden=True,
    layers=SINGLE_STREAM,
    count=zimage_sizes.count,
    count_encoders=zimage_sizes.count_qwen,
    control_files=ZIMAGE_FILES,
)

FACTS = (SD1, SD2, SDXL, SD3, FLUX, ZIMAGE)
"""In the order in which AUTOMATIC1111 looks for their marks in a file name. The first stands in for unknown bases."""
TEXT_PARTS = tuple(f"{part}{number}" for number in ("", "_2", "_3") for part in ("text_encoder", "tokenizer"))
"""Folders of a base, of any family, from which encoded text comes. Their files are a part of the text cache's key."""
NAMES = tuple(facts.name for facts in FACTS)


def of_config(config: Mapping[str, Any]) -> FamilyFacts | None:
    """The family of a denoiser's config, by class and text width; None: another class, or a size of its own."""
    return next((facts for facts in of_class(config) if config.get(facts.text_key) == facts.text_width), None)


def of_class(config: Mapping[str, Any]) -> list[FamilyFacts]:
    """The families whose denoiser has the class of this config."""
    name = config.get("_class_name", FACTS[0].denoiser_class)
    return [facts for facts in FACTS if facts.denoiser_class == name]


def of_control_net(config: Mapping[str, Any]) -> FamilyFacts:
    """The first family whose control nets have the class of this config; a config that names none is the first's."""
    name = config.get("_class_name")
    return next((facts for facts in FACTS if facts.net_class == name), FACTS[0])


def control_files() -> list[ControlFiles]:
    """The kinds of control nets' files, each once."""
    return list(dict.fromkeys(facts.control_files for facts in FACTS))


def by_text_width(width: int) -> FamilyFacts | None:
    """The family whose denoiser reads text of this width, if any."""
    return next((facts for facts in FACTS if facts.text_width == width), None)


def version_of(file_name: str) -> FamilyFacts | None:
    """The family that AUTOMATIC1111's ControlNet extension takes a file of this name for; None: it finds no mark."""
    name = file_name.lower()
    return next((facts for facts in FACTS if any(mark in name for mark in facts.version_marks)), None)
