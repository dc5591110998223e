"""A whole base under the names of the original code (LDM), as AUTOMATIC1111 and ComfyUI read checkpoints.

diffusers has a reader for such files (``from_single_file``) but no writer. The UNet is behind
``model.diffusion_model.``, the VAE behind ``first_stage_model.``; it counts its up blocks the other way, and its
attention is made of 1 x 1 convolutions. CLIP keeps its names; OpenCLIP has names of its own, one matrix for queries,
keys and values, and its text projection transposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from engine.errors import UserError
from engine.families.facts import SD1, SD2, SDXL, FamilyFacts
from engine.families.files import UNET_PREFIX
from engine.families.unet_names import original_names

VAE_PREFIX = "first_stage_model."
CLIP, OPEN_CLIP = "clip", "open_clip"
ENCODERS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    SD1.name: {"text_encoder": (CLIP, "cond_stage_model.transformer.")},
    SD2.name: {"text_encoder": (OPEN_CLIP, "cond_stage_model.model.")},
    SDXL.name: {
        "text_encoder": (CLIP, "conditioner.embedders.0.transformer."),
        "text_encoder_2": (OPEN_CLIP, "conditioner.embedders.1.model."),
    },
}
"""For each family: the folders of its text encoders, and the form and prefix of their names in a file."""
VAE_NAMES = (
    (r"(en|de)coder\.mid_block\.attentions\.0\.", r"\1coder.mid.attn_1."),
    (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    ("group_norm", "norm"),
    (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
    (r"attn_1\.to_out\.0\.", "attn_1.proj_out."),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
)
OPEN_CLIP_NAMES = (
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"^text_projection\.weight$", "text_projection"),
)
Tensors = dict[str, torch.Tensor]


def can_be_one_file(facts: FamilyFacts) -> bool:
    """Whether the bases of a family have such files."""
    return facts.name in ENCODERS


def to_ldm(parts: Mapping[str, Mapping[str, torch.Tensor]], facts: FamilyFacts, schedule: Mapping[str, Any]) -> Tensors:
    """All tensors of a base for one file. Values stay the same bits.

    Args:
        parts: the tensors of each part by its folder in diffusers layout: the denoiser, "vae", and the text encoders,
            these with ``text_model.`` in their names.
        schedule: entries of the scheduler's config. Other programs find velocity prediction and zero terminal SNR by
            the marker tensors ``v_pred`` and ``ztsnr``.

    Raises:
        UserError: the family has no such files, or a layer has no name in them.
    """
    if not can_be_one_file(facts):
        raise UserError(
            f"A base of {facts.title} cannot be written as one file.",
            "There is a file of this kind only for Stable Diffusion 1.x, 2.x and XL.",
            "Export the folder for diffusers.",
        )
    found = _unet(parts[facts.denoiser])
    found |= {VAE_PREFIX + name: tensor for name, tensor in _vae(parts["vae"]).items()}
    for part, (form, prefix) in ENCODERS[facts.name].items():
        encoder = _open_clip(parts[part]) if form == OPEN_CLIP else parts[part]
        found |= {prefix + name: tensor for name, tensor in encoder.items()}
    marks = {"v_pred": schedule.get("prediction_type") == "v_prediction"}
    marks["ztsnr"] = bool(schedule.get("rescale_betas_zero_snr"))
    return {**found, **{name: torch.zeros(0) for name, present in marks.items() if present}}


def names_of(names: Iterable[str], part: str, facts: FamilyFacts) -> list[str]:
    """The names of one part's tensors among those of such a file."""
    prefix = {facts.denoiser: UNET_PREFIX, "vae": VAE_PREFIX}.get(part) or ENCODERS[facts.name][part][1]
    return [name for name in names if name.startswith(prefix)]


def _unet(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    modules = {name.rpartition(".")[0] for name in tensors}
    names = original_names(modules)
    if unnamed := sorted(modules - names.keys()):
        raise UserError(
            "The base cannot be written as one file.",
            f"Its UNet has a layer {unnamed[0]}, which has no name in such files.",
            "Export the folder for diffusers.",
        )
    return {
        f"{UNET_PREFIX}{names[module]}.{kind}": tensor
        for name, tensor in tensors.items()
        for module, _, kind in [name.rpartition(".")]
    }


def _vae(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    last = max((int(number) for name in tensors for number in re.findall(r"up_blocks\.(\d+)\.", name)), default=0)

    def renamed(name: str) -> str:
        for pattern, theirs in VAE_NAMES:
            name = re.sub(pattern, theirs, name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda n: f"up.{last - int(n[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda n: f"up.{last - int(n[1])}.upsample.", name)
        return re.sub(r"mid_block\.resnets\.(\d+)\.", lambda n: f"mid.block_{int(n[1]) + 1}.", name)

    matrices = re.compile(r"attn_1\.(q|k|v|proj_out)\.weight$")
    named = {renamed(name): tensor for name, tensor in tensors.items()}
    return {n: t[..., None, None] if t.ndim == 2 and matrices.search(n) else t for n, t in named.items()}


def _open_clip(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return dict(_open_clip_tensors(tensors))


def _open_clip_tensors(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        theirs = name
        for pattern, new in OPEN_CLIP_NAMES:
            theirs = re.sub(pattern, new, theirs)
        if (found := re.search(r"\.self_attn\.([qkv])_proj\.(weight|bias)$", name)) is None:
            yield theirs, tensor.T.contiguous() if theirs == "text_projection" else tensor
        elif found[1] == "q":
            three = [tensors[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            yield theirs.replace(f".self_attn.q_proj.{found[2]}", f".attn.in_proj_{found[2]}"), torch.cat(three)
