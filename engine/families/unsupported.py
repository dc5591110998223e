"""Why a base with a UNet cannot be trained for: what its configs say that training would otherwise ignore. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.families.facts import FACTS
from engine.families.family_facts import FamilyFacts
from engine.families.latents import LatentSpace

CHANNELS = {
    5: "a depth-to-image base",
    7: "an upscaler",
    8: "a base that edits images (InstructPix2Pix)",
    9: "a base for inpainting",
}
PREDICTIONS = ("epsilon", "v_prediction")
FLOW = ("flow_prediction", "flow")
CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")


@dataclass(frozen=True)
class BaseParts:
    """The configs of a base as read from its folder, its single file or the hub. Empty: the base has no such file."""

    index: Mapping[str, Any]
    """model_index.json: library and class of each part."""
    denoiser: Mapping[str, Any]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)


def why_not(parts: BaseParts) -> str:
    """Why a base with a UNet, CLIP text and a DDPM noise schedule is none after all, as a sentence; "" if it is one.

    Everything refused here loads or fails late, and none of it would be trained as the base was.
    """
    return _of_unet(parts.denoiser) or _of_text(parts.index) or _of_scheduler(parts.scheduler) or _of_vae(parts.vae)


def is_left_out(index: Mapping[str, Any], part: str) -> bool:
    """Whether model_index.json lists a part as null: the pipeline was saved without it."""
    entry = index.get(part)
    return isinstance(entry, list) and bool(entry) and entry[0] is None


def without_text(index: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Why a base that lacks some of these parts of model_index.json cannot be trained for, as a sentence; "" if it has
    them. A part that is null was left out when the base was saved."""
    lacking = [part for part in parts if part not in index or is_left_out(index, part)]
    if not lacking:
        return ""
    return f"It comes without {', '.join(lacking)}, and captions cannot be read without that."


def other_latents(vae: Mapping[str, Any], own: FamilyFacts) -> str:
    """Why a VAE does not belong to bases of this family, as a sentence; "" if it does.

    A base may have a scale of its own, but not that of another family.
    """
    found = LatentSpace.from_config(vae)
    if not vae:
        return ""
    if found.channels != own.latents.channels:
        return (
            f"Its VAE makes latents of {found.channels} channels, and its transformer reads {own.latents.channels}: "
            "the VAE is of another base."
        )
    for other in FACTS:
        if _scaling(other.latents) == _scaling(found) != _scaling(own.latents):
            return f"Its VAE is one of {other.title}: it multiplies latents by {found.scale}."
    return ""


def _scaling(latents: LatentSpace) -> tuple[int, float, float]:
    return latents.channels, latents.scale, latents.shift


def _of_unet(config: Mapping[str, Any]) -> str:
    channels = config.get("in_channels", 4)
    if channels != 4:
        what = CHANNELS.get(channels, "a base of another kind")
        return f"It is {what}: its UNet reads {channels} channels instead of 4."
    if config.get("time_cond_proj_dim") is not None:
        return "It is a latent consistency model (LCM): its UNet takes the guidance scale as an input."
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        return "Its UNet takes an image embedding or a class in addition to the text, like unCLIP and upscalers."
    if config.get("encoder_hid_dim") is not None or config.get("encoder_hid_dim_type") is not None:
        return "Its UNet reads text from an encoder other than CLIP, like Kolors."
    if config.get("addition_embed_type") not in (None, "text_time"):
        return f"Its UNet takes an input that this app does not support ({config['addition_embed_type']})."
    return ""


def _of_text(index: Mapping[str, Any]) -> str:
    encoders = [part for part in ("text_encoder", "text_encoder_2") if part in index]
    if any(is_left_out(index, part) for part in encoders):
        return "One of its text encoders is missing, as in the refiner of Stable Diffusion XL."
    classes = [index[part][1] for part in encoders if isinstance(index[part], list) and len(index[part]) == 2]
    other = next((name for name in classes if name and name not in CLIP), "")
    return f"Its text encoder is a {other}; only bases with CLIP are supported." if other else ""


def _of_scheduler(config: Mapping[str, Any]) -> str:
    name, predicts = str(config.get("_class_name", "")), config.get("prediction_type", "epsilon")
    if "FlowMatch" in name or config.get("use_flow_sigmas") or predicts in FLOW:
        return "It was trained by flow matching, but this app trains its family with a DDPM noise schedule."
    if config and config.get("beta_start") is None and config.get("trained_betas") is None:
        what = "EDM's noise schedule" if "EDM" in name else f"a noise schedule without betas ({name or 'no class'})"
        return f"It was trained with {what}, as Playground v2.5 and CosXL were."
    if predicts not in PREDICTIONS:
        return (
            f"Its scheduler says that it predicts {predicts!r}; only noise ('epsilon') and 'v_prediction' are "
            "supported."
        )
    return ""


def _of_vae(config: Mapping[str, Any]) -> str:
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        return "Its latents are normalised per channel (latents_mean in its VAE's config)."
    name = config.get("_class_name", "AutoencoderKL")
    return "" if name == "AutoencoderKL" else f"Its VAE is a {name}; only AutoencoderKL is supported."
