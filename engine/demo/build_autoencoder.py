"""The training of the bundled bases' autoencoders, which is resumed from a work folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from engine.disk.durable import atomic_write


def cosine_lr(step: int, total: int, peak: float, warmup: int = 200) -> float:
    """Learning rate: linear warmup to ``peak``, then a cosine down to 2 % of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))


def save_state(path: Path, state: Any) -> None:
    """Save what a training is resumed from."""
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def random_crop(images: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """The same square of ``side`` pixels of all images (n, 3, h, h)."""
    top, left = torch.randint(0, images.shape[-1] - side + 1, (2,), generator=generator).tolist()
    return images[:, :, top : top + side, left : left + side]


def train_autoencoder(
    vae: AutoencoderKL,
    batch_of: Callable[[int, torch.Generator], torch.Tensor],
    work: Path,
    steps: int,
    peak: float,
    warmup: int,
    seed: int,
) -> None:
    """Train a VAE in place, or continue from ``work``, and freeze it.

    The loss is the mean absolute and squared error, and a little of the divergence from the standard normal
    distribution (Kingma and Welling 2013, arXiv 1312.6114).

    Args:
        batch_of: the images of a step, (n, 3, h, w) in -1..1, given its number and its generator.
        peak: learning rate, reached after ``warmup`` steps.
    """
    optimizer = torch.optim.AdamW(vae.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.0)
    path, start, began = work / "vae.pt", 0, time.time()
    if path.exists():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        images = batch_of(step, generator)
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(step, steps, peak, warmup)
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        error = (decoded - images).abs().mean() + (decoded - images).square().mean()
        loss = error + 1e-5 * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"vae {step + 1}/{steps} error {error.item():.4f} {time.time() - began:.0f} s", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save_state(path, {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    vae.eval().requires_grad_(False)
