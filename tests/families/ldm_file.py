"""A pipeline folder as one file with the original programs' names: the way opposite to the app's, for tests."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

from engine.families.files import LAYOUTS
from engine.families.ldm_keys import Layout, module_names
from engine.families.unet_names import RESIDUAL


def write_single_file(base: Path, path: Path) -> Path:
    """Weights of a tiny Stable-Diffusion-1-shaped folder as one .safetensors or .ckpt, and its configs beside it."""
    tensors: dict[str, torch.Tensor] = {}
    config = json.loads((base / "unet" / "config.json").read_text(encoding="utf-8"))
    names = unet_names(config)
    for name, weight in load_file(base / "unet" / "diffusion_pytorch_model.safetensors").items():
        module = next(ours for ours in names if name.startswith(ours))
        tensors["model.diffusion_model." + names[module] + name[len(module) :]] = weight
    for name, weight in load_file(base / "vae" / "diffusion_pytorch_model.safetensors").items():
        tensors["first_stage_model." + vae_name(name)] = weight
    for name, weight in load_file(base / "text_encoder" / "model.safetensors").items():
        tensors["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = weight
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "global_step": 3}, path)
    beside = path.with_suffix("")
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(base, beside, ignore=weights, dirs_exist_ok=True)
    return path


def vae_name(name: str, blocks: int = 4) -> str:
    """Their name of a tensor of the VAE."""
    theirs = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    theirs = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", theirs)
    theirs = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", theirs)
    theirs = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", theirs)
    theirs = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", theirs)
    theirs = theirs.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
    theirs = re.sub(r"to_([qkv])\.", r"\1.", theirs).replace("to_out.0", "proj_out")
    return theirs.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def unet_names(config: dict) -> dict[str, str]:
    """Their module names by ours, with a dot at the end, longest first."""
    names = dict(module_names(Layout.of_config(config)))
    layers = config["layers_per_block"] + 1
    for block, kind in enumerate(config["up_block_types"]):
        attention = kind.startswith("CrossAttn")
        for layer in range(layers):
            number = block * layers + layer
            for part, theirs in RESIDUAL.items():
                names[f"up_blocks.{block}.resnets.{layer}.{part}."] = f"output_blocks.{number}.0.{theirs}."
            names[f"up_blocks.{block}.attentions.{layer}."] = f"output_blocks.{number}.1."
        last = block * layers + layers - 1
        names[f"up_blocks.{block}.upsamplers.0.conv."] = f"output_blocks.{last}.{2 if attention else 1}.conv."
    names |= {"conv_norm_out.": "out.0.", "conv_out.": "out.2."}
    return dict(sorted(names.items(), key=lambda pair: -len(pair[0])))


OPEN_CLIP = (
    ("text_model.", ""),
    ("embeddings.token_embedding", "token_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("encoder.layers.", "transformer.resblocks."),
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm", "ln_"),
    ("final_ln_", "ln_final"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("text_projection.weight", "text_projection"),
)


def open_clip_name(name: str) -> str:
    """OpenCLIP's name of a tensor of a CLIP text encoder, which keeps q, k and v apart."""
    for ours, theirs in OPEN_CLIP:
        name = name.replace(ours, theirs)
    return name


@cache
def real_shapes(layout: str) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a real single file of a family, by the names that Stability's files have."""
    found: dict[str, tuple[int, ...]] = {}
    config = json.loads((LAYOUTS / layout / "unet" / "config.json").read_text(encoding="utf-8"))
    names = unet_names(config)
    for name, shape in described(layout, "unet"):
        module = next((ours for ours in names if name.startswith(ours)), None)
        assert module is not None, name
        found["model.diffusion_model." + names[module] + name[len(module) :]] = shape
    for name, shape in described(layout, "vae"):
        theirs, attention = vae_name(name), "attentions" in name and name.endswith("weight") and len(shape) == 2
        found["first_stage_model." + theirs] = (*shape, 1, 1) if attention else shape
    for part in ("text_encoder", "text_encoder_2"):
        if not (LAYOUTS / layout / part).is_dir():
            continue
        clip = "conditioner.embedders.0.transformer." if layout == "sdxl" else "cond_stage_model.transformer."
        open_clip = "conditioner.embedders.1.model." if part == "text_encoder_2" else "cond_stage_model.model."
        for name, shape in described(layout, part):
            plain = name.removeprefix("text_model.")
            if layout == "sd1" or (layout == "sdxl" and part == "text_encoder"):
                found[f"{clip}text_model.{plain}"] = shape
                continue
            plain = open_clip_name(plain)
            if ".self_attn.q_proj." in plain:  # q, k and v are one tensor
                start, _, kind = plain.partition(".self_attn.q_proj.")
                found[f"{open_clip}{start}.attn.in_proj_{kind}"] = (3 * shape[0], *shape[1:])
            elif "self_attn" not in plain:
                found[open_clip + plain] = shape
    return found


def described(layout: str, part: str) -> list[tuple[str, tuple[int, ...]]]:
    config = json.loads((LAYOUTS / layout / part / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        if "_class_name" in config:
            net = getattr(diffusers, config["_class_name"]).from_config(config)
        else:
            kind = getattr(transformers, config["architectures"][0])
            net = kind(kind.config_class.from_dict(config))
    return [(name, tuple(weight.shape)) for name, weight in net.named_parameters()]


def write_header(path: Path, shapes: Mapping[str, Sequence[int]]) -> str:
    """A file of which the header alone is real: as much as choosing a base reads."""
    if path.suffix == ".safetensors":
        entries = {name: {"dtype": "F16", "shape": list(s), "data_offsets": [0, 0]} for name, s in shapes.items()}
        header = json.dumps(entries).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
    else:
        one = torch.zeros(1, dtype=torch.float16)
        torch.save({"state_dict": {name: one.expand(shape) for name, shape in shapes.items()}}, path)
    return str(path)
