"""Which family a base in a single file is of, by the names and shapes of its tensors; or what else it is. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from engine.families.facts import FamilyFacts, by_text_width
from engine.families.files import UNET_PREFIX, text_width

VAE = "first_stage_model."
TEXT = ("cond_stage_model.", "conditioner.embedders.")
OTHER_KINDS = (
    ("lllite", "a ControlNet-LLLite, which only changes a base"),
    ("lora", "a LoRA, which only changes a base"),
    ("ip_adapter.", "an IP-Adapter"),
    ("task_embedding", "a ControlNet Union"),
    ("controlnet_cond_embedding", "a ControlNet"),
    ("control_model", "a ControlNet"),
    ("input_hint_block", "a ControlNet"),
    ("distilled_guidance_layer", "a Chroma model"),
    ("double_stream_modulation", "a FLUX.2 model"),
    ("joint_blocks", "a Stable Diffusion 3 model"),
    ("double_blocks", "a Flux model"),
    ("cap_embedder", "a Z-Image or Lumina 2 model"),
    ("down_blocks", "the UNet of a base alone, without VAE and text encoders"),
    ("transformer_blocks.", "the transformer of a base alone, without VAE and text encoders"),
    ("vision_model.", "an image encoder alone"),
    ("text_model.", "a text encoder alone"),
    ("encoder.block.0.layer", "a text encoder alone"),
    ("decoder.conv_out", "a VAE alone"),
    ("emb_params", "an embedding, which is one word"),
    ("string_to_param", "an embedding, which is one word"),
)
OTHER_SCHEDULES = (
    ("edm_mean", "trained with EDM's noise schedule and normalised latents, as Playground v2.5 is"),
    ("scaled_fp8", "stored in 8 bits with separate scales, a format that some programs use for drawing"),
    ("edm_vpred.sigma_max", "trained with EDM's noise schedule, as CosXL is"),
    (f"{UNET_PREFIX}time_embed.cond_proj.weight", "a latent consistency model (LCM), which takes the guidance scale"),
)
"""Tensors of bases whose UNet looks like one that can be trained for."""


ONLY_AS_FOLDERS = ("joint_blocks", "double_blocks", "cap_embedder", "transformer_blocks.")
"""Those of them that can be trained for, but not from a single file: most such files lack text encoders."""


class NoBase(Exception):
    """A file is no base that can be trained for. The text says what it is, as the end of a sentence.

    ``as_folder``: the same base can be trained for from a folder in diffusers layout.
    """

    def __init__(self, what: str, as_folder: bool = False) -> None:
        super().__init__(what)
        self.as_folder = as_folder


def family_of_tensors(shapes: Mapping[str, list[int]], own_configs: bool = False) -> FamilyFacts | None:
    """The family of a single file.

    Args:
        shapes: of its tensors, by name.
        own_configs: the file has configs beside it, which say the rest; then the answer is None.

    Raises:
        NoBase: it is something else.
    """
    for name, what in OTHER_SCHEDULES:
        if name in shapes:
            raise NoBase(what)
    if own_configs:
        _require_parts(shapes)
        return None
    first = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight")
    if first is None:
        word, kind = _what_else(shapes)
        raise NoBase(kind, word in ONLY_AS_FOLDERS)
    if first[1] != 4:
        raise NoBase(f"a base for inpainting or a similar task (its UNet reads {first[1]} channels instead of 4)")
    width, classes = text_width(shapes), f"{UNET_PREFIX}label_emb.0.0.weight" in shapes
    facts = by_text_width(width)
    if width == 1280 and classes:
        raise NoBase("the refiner of Stable Diffusion XL, which only finishes another base's images")
    if facts is not None and facts.name != "sdxl" and classes:
        raise NoBase("a base that reads an image embedding in addition to the text (unCLIP)")
    if facts is None or (facts.name == "sdxl") != classes:
        raise NoBase(f"a model of an unknown kind (its text embeddings are {width} wide)")
    _require_parts(shapes)
    return facts


def _require_parts(shapes: Mapping[str, list[int]]) -> None:
    for part, prefixes in (("VAE", (VAE,)), ("text encoder", TEXT)):
        if not any(name.startswith(prefixes) for name in shapes):
            raise NoBase(f"only a part of a base: it has no {part}")


def _what_else(shapes: Mapping[str, list[int]]) -> tuple[str, str]:
    """The entry of OTHER_KINDS that the tensors have the mark of."""
    if not shapes:
        return "", "empty: it has no tensors"
    unknown = ("", "a model of an unknown kind")
    return next((kind for kind in OTHER_KINDS if any(kind[0] in name for name in shapes)), unknown)
