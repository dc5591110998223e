"""A pipeline folder as one file with the original programs' names: the way opposite to the app's, for tests."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from engine.families.ldm_keys import RESIDUAL, Layout, module_names


def write_single_file(base: Path, path: Path) -> Path:
    """Weights of a tiny Stable-Diffusion-1-shaped folder as one .safetensors or .ckpt, and its configs beside it."""
    tensors: dict[str, torch.Tensor] = {}
    config = json.loads((base / "unet" / "config.json").read_text(encoding="utf-8"))
    names = unet_names(config)
    for name, weight in load_file(base / "unet" / "diffusion_pytorch_model.safetensors").items():
        module = next(ours for ours in names if name.startswith(ours))
        tensors["model.diffusion_model." + names[module] + name[len(module) :]] = weight
    blocks = 4
    for name, weight in load_file(base / "vae" / "diffusion_pytorch_model.safetensors").items():
        theirs = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        theirs = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", theirs)
        theirs = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", theirs)
        theirs = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", theirs)
        theirs = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", theirs)
        theirs = theirs.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        tensors["first_stage_model." + theirs] = weight
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
