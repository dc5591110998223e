"""The recipe for small cards in the guide to diffusers' train_controlnet.py, written with diffusers' components."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.synthetic import dataset_name
from engine.config import OptimConfig
from engine.data.dataset import Dataset
from engine.disk.images import load_rgb
from engine.families.registry import detect
from engine.machine.precision import DTYPES
from engine.training.optim import build_optimizer
from engine.workspace.paths import Workspace

BATCH = 4


class Encoders:
    """VAE and text encoder in the training precision, as in diffusers' script."""

    def __init__(self, family: Any, base: str, device: torch.device, dtype: torch.dtype) -> None:
        self.family, self.device, self.dtype = family, device, dtype
        self.vae: Any = family.load_vae(base).to(device, dtype)
        self.tokenizer, self.text = family.load_tokenizer(base), family.load_text_encoder(base, dtype).to(device)

    @torch.no_grad()
    def __call__(self, samples: list[Any], size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = torch.stack([image(sample.image, size) for sample in samples]).to(self.device, self.dtype)
        latents = self.vae.encode(pixels * 2 - 1).latent_dist.sample() * self.vae.config.scaling_factor
        return latents, self.family.encode_text(self.tokenizer, self.text, [sample.caption for sample in samples])


def image(path: Path, size: int) -> torch.Tensor:
    """Decode and resize an image: RGB, 0..1, (3, size, size)."""
    resized = load_rgb(path).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float() / 255


def their_step(
    options: argparse.Namespace, workspace: Workspace, base: str, size: int, optim: OptimConfig
) -> SimpleNamespace:
    """The recipe, and a function that takes one step of it: batch size 1, gradient accumulation 4, no cache."""
    device, dtype = torch.device(options.device), DTYPES[options.precision]
    family: Any = detect(base)
    encode = Encoders(family, base, device, dtype)
    unet: Any = family.load_denoiser(base, dtype).to(device)
    controlnet: Any = family.new_controlnet(unet).to(device).train()
    controlnet.enable_gradient_checkpointing()
    optimizer = build_optimizer(controlnet, optim)
    scheduler = family.load_scheduler(base)
    samples: Any = Dataset.open(workspace.dataset_folder(dataset_name(size))).samples()
    half = options.precision != "fp32"
    scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
    seen = 0

    def step() -> torch.Tensor:
        nonlocal seen
        total = torch.zeros((), device=device)
        for _ in range(BATCH):
            sample, seen = samples[seen % len(samples)], seen + 1
            latents, text = encode([sample], size)
            text |= family.size_conditions(torch.tensor([[size, size, 0, 0, size, size]], device=device).float())
            control = image(sample.condition, size)[None].to(device, dtype)
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (1,), device=device)
            noisy = scheduler.add_noise(latents.float(), noise.float(), timesteps).to(dtype)
            with torch.autocast(device.type, dtype, enabled=half):
                predicted = family.predict(unet, controlnet, noisy, timesteps, text, control)
            velocity = scheduler.config.prediction_type == "v_prediction"
            target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
            loss = torch.nn.functional.mse_loss(predicted.float(), target.float()) / BATCH
            scaler.scale(loss).backward()
            total += loss.detach()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return total

    return SimpleNamespace(
        step=step, images=BATCH, waited=lambda: 0.0, save=None, close=lambda: None, estimate=None, warnings=[]
    )
