"""The facts of each base model family, as one table without torch: forms, presets, estimates and exports read them.

What a family does with torch: base.py, stable_diffusion.py, sdxl.py, sd3.py, flux.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.families import flux_sizes, joint_sizes, unet_sizes, zimage_sizes
from engine.families.control_files import ControlFiles
from engine.families.drawing import FLOW_SAMPLERS, SAMPLERS, ComfyNodes
from engine.families.encoder_sizes import CountEncoders, count_clip, count_clip_and_t5, count_three
from engine.families.flux_control_files import FLUX_FILES
from engine.families.joint_control_files import JOINT_FILES
from engine.families.latents import LatentSpace
from engine.families.layers import JOINT_TRANSFORMER, SINGLE_STREAM, TWO_STREAM_TRANSFORMER, UNET, Layers
from engine.families.sizes import Count
from engine.families.unet_control_files import UNET_FILES
from engine.families.zimage_control_files import ZIMAGE_FILES


@dataclass(frozen=True)
class FamilyFacts:
    """One base model family."""

    name: str
    """In run.json and checkpoints, as a preset's section ([sdxl.train]), and as a folder in ``layouts/``."""
    title: str
    text_width: int
    """Width of the text embeddings that the denoiser reads. It tells families with the same denoiser class apart."""
    parameters: int
    """Number of parameters of the first model's denoiser."""
    pipeline: str
    """diffusers' ControlNet pipeline, for the code on a model card."""
    file_tag: str
    """Goes into the names of exported files, so that AUTOMATIC1111 reads the right base version from them."""
    version_marks: tuple[str, ...]
    """Words in a file name that AUTOMATIC1111's ControlNet extension takes for this version."""
    outputs: int
    """Zero convolutions of a ControlNet for the real model, except the one to the middle."""
    lora_mark: bool
    """A Control-LoRA of this family has the tensor by which AUTOMATIC1111 tells SD 1.x from XL."""
    comfy: ComfyNodes = ComfyNodes()
    """What a ComfyUI workflow for its bases has."""
    control_argument: str = "image"
    """Name of the control image in a call of ``pipeline``."""
    card_dtype: str = "float16"
    """torch's dtype in which ``pipeline`` works on a card."""
    net_class: str = "ControlNetModel"
    """diffusers' class of the control net, for the same code."""
    text_class: str = "CLIPTextModel"
    """transformers' class of the text encoder, for the same code."""
    card_tag: str = "stable-diffusion"
    """Tag of a model card."""
    safety_checker: bool = True
    """The pipeline has a safety checker, which the model card's code switches off."""
    text_layer: int = 1
    """The text encoder's layer that the base reads, counted from the last as AUTOMATIC1111's Clip skip does."""
    samplers: tuple[str, ...] = SAMPLERS
    """diffusers' scheduler classes that can sample from its bases."""
    clip_skip_argument: bool = False
    """diffusers' pipeline can be told to read an earlier layer. The ones for SD 1 and 2 fail with transformers 5."""
    a1111_caveat: str = ""
    """What users of AUTOMATIC1111 have to know, as a sentence."""
    denoiser: str = "unet"
    """Name of the denoiser: its folder in a base, and its attribute of a diffusers pipeline."""
    denoiser_class: str = "UNet2DConditionModel"
    """diffusers' class of the denoiser."""
    latents: LatentSpace = LatentSpace()
    """Channels and size of the latents. Their scale is the base's own: ``Family.latent_space``."""
    packs_latents: bool = False
    """diffusers' pipelines take and return the latents as tokens of 2 x 2, as ``LatentSpace.pack`` makes them."""
    even_sigmas: bool = False
    """Euler divides the sigmas from 1 to 1 / steps evenly before it shifts them, as diffusers' pipeline does. So it
    does for every base whose shift depends on the image size."""
    patch: int = 1
    """Side of the denoiser's tokens, in latents."""
    block_counts: tuple[int, ...] = ()
    """Numbers of blocks that a new control net may have, as far as other programs load it; (): it has no choice."""
    uneven_blocks: bool = False
    """Each of n outputs of a control net serves N / n of the base's N blocks, rounded up; the last one may serve fewer.
    Without it all serve as many, and the base's last block cannot be copied."""
    text_key: str = "cross_attention_dim"
    """Name of ``text_width`` in the denoiser's config."""
    control_is_encoded: bool = False
    """The control net reads latents of the control image, from the base's VAE, in place of pixels."""
    t5_can_be_left_out: bool = False
    """Its denoiser reads zeros in place of T5's text where that is left out (``Family.without_optional_text``)."""
    guidance_embedded: bool = False
    """The denoiser reads the guidance scale as an input. No second, unconditional prediction is made in sampling."""
    layers: Layers = UNET
    """Module names of the denoiser and of its control net."""
    count: Count = unet_sizes.count
    """Counts parameters and activations from the denoiser's config."""
    count_encoders: CountEncoders = count_clip
    """Counts the VAE and the text encoders from their configs."""
    control_files: ControlFiles = UNET_FILES
    """How the files of its control nets are recognised, read, and compared with a base."""

    @property
    def control_channels(self) -> int:
        """Channels of the control image as the control net reads it: RGB, or those of latents."""
        return self.latents.channels if self.control_is_encoded else 3

    def why_not_left_out(self, control: float, t5: float) -> list[str]:
        """Why a run cannot leave out these shares of control images and of T5's text; each as a sentence."""
        found = []
        if control and not self.control_is_encoded:
            found.append(f"Control dropout is for ControlNets that read latents, and {self.title}'s do not; set 0.")
        if t5 and not self.t5_can_be_left_out:
            found.append(f"T5 dropout is for bases that may leave out T5, and {self.title} does not; set 0.")
        return found

    def blocks_of(self, control_net: Mapping[str, Any]) -> int:
        """Number of blocks of a control net with this config; 0: of a family without such a choice."""
        return int(control_net["num_layers"]) if self.block_counts else 0

    def why_not_blocks(self, config: Mapping[str, Any], wanted: int) -> str:
        """Why a new control net cannot have this many blocks, as a sentence; "" if it can.

        Args:
            config: the denoiser's.
            wanted: 0: the usual number.
        """
        if not wanted:
            return ""
        if not self.block_counts:
            return (
                f"ControlNet blocks cannot be chosen for {self.title}: its ControlNet copies the whole encoder; set 0."
            )
        known = ", ".join(map(str, self.block_counts))
        of_base = int(config.get("num_layers") or 0)
        if wanted not in self.block_counts:
            return f"Other programs load ControlNets of {known} blocks for {self.title}, not of {wanted}."
        fitting = [n for n in self.block_counts if self._serve(n, of_base)]
        if of_base and wanted not in fitting:
            numbers = ", ".join(map(str, fitting))
            return f"{wanted} ControlNet blocks cannot serve the base's {of_base} evenly; set {numbers}, or 0."
        return ""

    def _serve(self, blocks: int, of_base: int) -> bool:
        """Whether so many outputs can serve the base's blocks, and each of them serves any."""
        if not self.uneven_blocks:
            return blocks < of_base and of_base % blocks == 0
        each = math.ceil(of_base / blocks)
        return math.ceil(of_base / each) == blocks


SD1 = FamilyFacts(
    name="sd1",
    title="Stable Diffusion 1.x",
    text_width=768,
    parameters=859_520_964,
    pipeline="StableDiffusionControlNetPipeline",
    file_tag="sd15",
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
    version_marks=("sd21", "2.1"),
    outputs=12,
    lora_mark=True,
    text_layer=2,  # diffusers' folders leave out the layer behind it
    a1111_caveat="AUTOMATIC1111's ControlNet extension computes the attention of Stable Diffusion 2 nets with another "
    "number of heads, so images differ a little from those here; ComfyUI's do not.",
)
SDXL = FamilyFacts(
    name="sdxl",
    title="Stable Diffusion XL",
    text_width=2048,
    parameters=2_567_463_684,
    pipeline="StableDiffusionXLControlNetPipeline",
    file_tag="sdxl",
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
    outputs=6,
    lora_mark=False,
    comfy=ComfyNodes(
        apply="ControlNetApplySD3",
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
    outputs=2,
    lora_mark=False,
    net_class="FluxControlNetModel",
    card_tag="flux",
    safety_checker=False,
    denoiser="transformer",
    denoiser_class="FluxTransformer2DModel",
    latents=LatentSpace(channels=16, scale=0.3611, shift=0.1159),
    patch=2,
    block_counts=(1, 2, 3, 4, 5, 7, 10),
    uneven_blocks=True,
    text_key="joint_attention_dim",
    control_is_encoded=True,
    guidance_embedded=True,
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
    outputs=zimage_sizes.CONTROL_LAYERS,
    lora_mark=False,
    net_class="ZImageControlNetModel",
    text_class="Qwen3Model",
    card_tag="z-image",
    safety_checker=False,
    text_layer=2,
    denoiser="transformer",
    denoiser_class="ZImageTransformer2DModel",
    latents=LatentSpace(channels=16, scale=0.3611, shift=0.1159),
    even_sigmas=True,
    patch=2,
    text_key="cap_feat_dim",
    control_is_encoded=True,
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
