"""What is known of a base model family without torch: the columns of the table in facts.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.families import unet_sizes
from engine.families.control_files import ControlFiles
from engine.families.drawing import SAMPLERS, ComfyNodes
from engine.families.encoder_sizes import CountEncoders, count_clip
from engine.families.latents import LatentSpace
from engine.families.layers import UNET, Layers
from engine.families.objective import not_for_flow
from engine.families.sizes import Count
from engine.families.unet_control_files import UNET_FILES


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
    outputs: int = 0
    """Zero convolutions of a ControlNet for the real model, except the one to the middle; 0: it is no UNet."""
    lora_version: tuple[str, str] | None = None
    """The base's version and architecture in a LoRA file's header, as kohya's scripts and the modelspec name them."""
    text_can_learn: bool = False
    """Words and text encoders of its bases can be trained: they are CLIP's."""
    lora_mark: bool = False
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
    usual_blocks: int = 0
    """Blocks of a transformer that a new control net copies where nothing else is said."""
    block_counts: tuple[int, ...] = ()
    """Numbers of blocks that a new control net may have, as far as other programs load it; (): it has no choice."""
    uneven_blocks: bool = False
    """Each of n outputs of a control net serves N / n of the base's N blocks, rounded up; the last one may serve fewer.
    Without it all serve as many, and the base's last block cannot be copied."""
    text_key: str = "cross_attention_dim"
    """Name of ``text_width`` in the denoiser's config."""
    control_is_encoded: bool = False
    """The control net reads latents of the control image, from the base's VAE, in place of pixels."""
    flow_matching: bool = False
    """Its bases are trained by flow matching."""
    bucket_step: int = 64
    """Sides of training images can be multiples of this, in pixels: a token, or what a UNet can halve three times."""
    t5_can_be_left_out: bool = False
    """Its denoiser reads zeros in place of T5's text where that is left out (``Family.without_optional_text``)."""
    captions_can_be_hidden: bool = False
    """Other programs give its ControlNets no captions (``Family.hidden_from_net``)."""
    guidance_embedded: bool = False
    """The denoiser reads the guidance scale as an input. No second, unconditional prediction is made in sampling."""
    usual_guidance: float = 7.5
    """Guidance scale where nothing else says."""
    turbo_steps: int = 0
    """Usual number of steps of its distilled bases; 0: as their kind's name says."""
    layers: Layers = UNET
    """Module names of the denoiser and of its control net."""
    count: Count = unet_sizes.count
    """Counts parameters and activations from the denoiser's config."""
    count_encoders: CountEncoders = count_clip
    """Counts the VAE and the text encoders from their configs."""
    control_files: ControlFiles = UNET_FILES
    """How the files of its control nets are recognized, read, and compared with a base."""

    def lora_metadata(self, rank: int, resolution: int) -> dict[str, str]:
        """Entries of a LoRA file's header. AUTOMATIC1111 hides a LoRA whose header does not name the base's version.

        Args:
            resolution: of the training images, in pixels.
        """
        found = {
            "format": "pt",
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(rank),
            "ss_network_alpha": str(rank),
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.resolution": f"{resolution}x{resolution}",
        }
        if self.lora_version:
            version, architecture = self.lora_version
            found |= {"ss_base_model_version": version, "modelspec.architecture": f"{architecture}/lora"}
            found["ss_v2"] = str(version.startswith("sd_v2"))
        return found

    def embedding_metadata(self, word: str) -> dict[str, str]:
        """Entries of an embedding file's header."""
        found = {"format": "pt", "modelspec.sai_model_spec": "1.0.1", "modelspec.trigger_phrase": word}
        if self.lora_version:
            found["modelspec.architecture"] = f"{self.lora_version[1]}/textual-inversion"
        return found

    @property
    def control_channels(self) -> int:
        """Channels of the control image as the control net reads it: RGB, or those of latents."""
        return self.latents.channels if self.control_is_encoded else 3

    def why_not_guided(self, guidance: float) -> str:
        """Why a run cannot train at this guidance scale, as a sentence; "" if it can. 0: none is set."""
        if not guidance or self.guidance_embedded:
            return ""
        return f"Guidance in training is for bases that read it as an input, and {self.title} does not; set 0."

    def why_not_left_out(self, control: float, t5: float, captions: float = 0.0) -> list[str]:
        """Why a run cannot leave out these shares of control images, of T5's text, of captions for the net;
        each as a sentence."""
        found = []
        if control and not self.control_is_encoded:
            found.append(
                f"Control dropout is for ControlNets that read latents; those of {self.title} do not, so set it to 0."
            )
        if t5 and not self.t5_can_be_left_out:
            found.append(
                f"T5 dropout is for bases in which T5 is optional, which is not so for {self.title}; set it to 0."
            )
        if captions and not self.captions_can_be_hidden:
            found.append(f"Captions can be hidden from the ControlNet for Z-Image, not for {self.title}; set 0.")
        return found

    def why_not_objective(self, sampling: str, min_snr_gamma: float, offset_noise: float) -> list[str]:
        """Why its bases cannot be trained with these settings of the objective; each as a sentence."""
        if not self.flow_matching:
            return []
        return [
            f"{title} cannot be used with {self.title}, which is trained by flow matching: {why}; set {instead}."
            for title, why, instead in not_for_flow(sampling, min_snr_gamma, offset_noise)
        ]

    def why_not_step(self, step: int) -> str:
        """Why buckets cannot have sides in multiples of ``step`` pixels, as a sentence; "" if they can."""
        if step % self.bucket_step == 0:
            return ""
        return f"{self.title} needs a bucket step of {self.bucket_step} px, not {step}; set {self.bucket_step}."

    def blocks_of(self, control_net: Mapping[str, Any]) -> int:
        """Number of blocks of a control net with this config; 0: of a family without such a choice."""
        return self.control_files.blocks(control_net)[0]

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
                f"ControlNet blocks cannot be chosen for {self.title}, because its ControlNet copies the whole "
                "encoder; set it to 0."
            )
        known = ", ".join(map(str, self.block_counts))
        of_base = int(config.get("num_layers") or 0)
        if wanted not in self.block_counts:
            return f"For {self.title}, other programs load ControlNets of {known} blocks, not of {wanted}."
        fitting = [n for n in self.block_counts if self._serve(n, of_base)]
        if of_base and wanted not in fitting:
            numbers = ", ".join(map(str, fitting))
            return f"{wanted} ControlNet blocks cannot be spread evenly over the base's {of_base}; set {numbers}, or 0."
        return ""

    def _serve(self, blocks: int, of_base: int) -> bool:
        """Whether so many outputs can serve the base's blocks, and each of them serves any."""
        if not self.uneven_blocks:
            return blocks < of_base and of_base % blocks == 0
        each = math.ceil(of_base / blocks)
        return math.ceil(of_base / each) == blocks
