"""Synthetic training material: bases of random weights in real or reduced shapes, and datasets with Canny maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.families.files import LAYOUTS
from engine.families.single_file import clip_tokenizer
from engine.workspace.paths import Workspace

IMAGES = 48


@dataclass(frozen=True)
class Shapes:
    """The shapes of a base."""

    layout: str
    divisor: int
    """The widths of all nets are divided by it."""
    resolution: int
    """Width and height of the images that it is trained on, in pixels."""


SHAPES = {
    "mid": Shapes("sd1", 4, 128),  # all nets a quarter as wide, in the same proportions: fast enough for a processor
    "tiny": Shapes("sd1", 8, 64),  # this one and the next two are for rehearsals
    "tiny21": Shapes("sd2", 8, 64),
    "tinyxl": Shapes("sdxl", 8, 64),
    "sd15": Shapes("sd1", 1, 512),
    "sd21": Shapes("sd2", 1, 768),
    "sdxl": Shapes("sdxl", 1, 1024),
}


def make_base(folder: Path, shapes: Shapes, dtype: torch.dtype, device: str = "cpu") -> Path:
    """Write a pipeline of random weights (seed 0, generated on ``device``), unless the folder has one already."""
    if (folder / "model_index.json").exists():
        return folder
    torch.manual_seed(0)
    configs = LAYOUTS / shapes.layout
    parts: dict[str, Any] = {"tokenizer": clip_tokenizer(shapes.layout, "tokenizer")}
    unet, vae = _read(configs / "unet"), _read(configs / "vae")
    divisor = shapes.divisor
    for config in (unet, vae):
        config["block_out_channels"] = [width // divisor for width in config["block_out_channels"]]
        config["norm_num_groups"] = {1: 32, 4: 16, 8: 8}[divisor]  # 80 channels cannot be split into 32 groups
    texts = [name for name in ("text_encoder", "text_encoder_2") if (configs / name).is_dir()]
    context = 0
    with torch.device(device):
        for name in texts:
            config = _read(configs / name)
            config |= {size: config[size] // divisor for size in ("hidden_size", "intermediate_size")}
            context += config["hidden_size"]
            kind = CLIPTextModelWithProjection if name == "text_encoder_2" else CLIPTextModel
            parts[name] = kind(CLIPTextConfig(**config)).to(dtype).cpu()
        unet["cross_attention_dim"] = context
        parts["unet"] = UNet2DConditionModel.from_config(unet).to(dtype).cpu()
        parts["vae"] = AutoencoderKL.from_config(vae).to(dtype).cpu()
    if "text_encoder_2" in parts:
        parts["tokenizer_2"] = clip_tokenizer(shapes.layout, "tokenizer_2")
    parts["scheduler"] = DDPMScheduler.from_config(_read(configs / "scheduler", "scheduler_config.json"))
    if len(texts) == 2:
        StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=False).save_pretrained(folder)
    else:
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        StableDiffusionPipeline(**parts, **options).save_pretrained(folder)
    return folder


def dataset_name(resolution: int) -> str:
    """The name of the dataset that ``make_images`` makes."""
    return f"pictures-{resolution}"


def make_images(workspace: Workspace, resolution: int) -> Dataset:
    """A dataset of crops of photographs, 1.25 times ``resolution``, with Canny maps and captions."""
    name = dataset_name(resolution)
    if name in workspace.dataset_names():
        return Dataset.open(workspace.dataset_folder(name))
    from skimage import data

    source, rng, side = workspace.root / name, np.random.default_rng(0), round(resolution * 1.25)
    for part in ("images", "conditions"):
        (source / part).mkdir(parents=True, exist_ok=True)
    photos = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    for number in range(IMAGES):
        photo = photos[number % 4]
        smaller = min(photo.shape[:2])
        piece = int(rng.integers(smaller // 2, smaller))
        top, left = (int(rng.integers(0, size - piece + 1)) for size in photo.shape[:2])
        image = cv2.resize(photo[top : top + piece, left : left + piece], (side, side))
        Image.fromarray(image).save(source / "images" / f"{number:02d}.png")
        edges = cv2.Canny(image, 80, 160)
        Image.fromarray(edges).convert("RGB").save(source / "conditions" / f"{number:02d}.png")
        caption = f"piece {number} of a photograph, in natural colours"
        (source / "images" / f"{number:02d}.txt").write_text(caption, encoding="utf-8")
    return Dataset.create(workspace, name, scan_folder(source))


def _read(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))
