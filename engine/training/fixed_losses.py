"""Does the net listen? Measured without drawing anything: losses of a few fixed pairs at fixed noise.

Held-out loss: how well the net does on pairs that it never trains on. Control gain: how much worse it does when each
image gets another one's condition map. A net that does not look at its map has gain 0; the gain jumps when it
begins to. Training loss: the same loss on as many pairs that it does train on; a gap that opens is overfitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from engine.conditions import registry
from engine.data.cache import cropped_hint
from engine.data.crop import size_numbers
from engine.jobs.events import Checked
from engine.training.objective import draw

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

LEVELS = (0.3, 0.6, 0.8, 0.95)
"""Shares of the noise levels at which is measured, one a pair in turn; mostly noisy ones, where a map matters most."""
NOISE_SEED = 20_231


@dataclass(frozen=True)
class Fixed:
    """B pairs of one size with their noise, on the CPU: the same at every check."""

    latents: torch.Tensor
    """(B, 4, h, w) fp32, scaled mean of the VAE's posterior."""
    noise: torch.Tensor
    timesteps: torch.Tensor
    """(B,), integers."""
    text: dict[str, torch.Tensor]
    sizes: torch.Tensor
    maps: np.ndarray
    """uint8 RGB (B, H, W, 3)."""
    swapped: np.ndarray
    """The same maps, each at another pair; a pair alone in its size gets its own, mirrored."""


def fix(trainer: Trainer, rows: Sequence[int]) -> list[Fixed]:
    """The pairs of these rows of ``trainer.samples``, centre crops, grouped by size.

    Raises:
        UserError: a map is gone or cannot be read.
    """
    by_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, row in enumerate(rows):
        by_size.setdefault(trainer.cache.size(row), []).append((number, row))
    return [_fix(trainer, numbered) for numbered in by_size.values()]


def _fix(trainer: Trainer, numbered: Sequence[tuple[int, int]]) -> Fixed:
    rows = [row for _, row in numbered]
    cache, dataset, spec = trainer.cache, trainer.dataset, trainer.dataset.condition
    nearest = spec is not None and registry.get(spec.type).categorical
    count = trainer.noise_process.timesteps
    noise = [draw(NOISE_SEED, number, 1, cache.latent_shape(row), count, 0.0).noise for number, row in numbered]
    levels = [LEVELS[number % len(LEVELS)] for number, _ in numbered]
    samples = [trainer.samples[row] for row in rows]
    crops = [cache.crop(row) for row in rows]
    pairs = zip(samples, crops, strict=True)
    maps = np.stack([cropped_hint(dataset.condition_path(sample), crop, nearest) for sample, crop in pairs])
    swapped = np.roll(maps, 1, axis=0) if len(maps) > 1 else maps[:, :, ::-1]
    return Fixed(
        latents=trainer.latent_space.scaled(cache.latents(rows)[0]),
        noise=torch.cat(noise),
        timesteps=trainer.noise_process.timesteps_at(levels),
        text=cache.text([sample.caption for sample in samples]),
        sizes=torch.tensor([size_numbers(crop) for crop in crops], dtype=torch.float32),
        maps=maps,
        swapped=np.ascontiguousarray(swapped),
    )


def losses(trainer: Trainer, fixed: Sequence[Fixed], swapped: bool, at_once: int) -> np.ndarray:
    """Squared error of each pair, mean over its latents, (B,): with its own map, or with another's.

    Changes nothing: no weight, no random state; nothing stays on the device.
    """
    found: list[float] = []
    for group in fixed:
        for first in range(0, len(group.maps), at_once):
            found += _some(trainer, group, slice(first, first + at_once), swapped).tolist()
    return np.array(found)


def _some(trainer: Trainer, group: Fixed, part: slice, swapped: bool) -> torch.Tensor:
    to: Any = trainer.device
    latents, noise, timesteps = (t[part].to(to) for t in (group.latents, group.noise, group.timesteps))
    maps = (group.swapped if swapped else group.maps)[part]
    family, process, net = trainer.family, trainer.noise_process, trainer.nets.controlnet
    control = family.encode_control(torch.from_numpy(maps).to(to)).to(trainer.dtype)
    text = {name: rows[part].to(to) for name, rows in group.text.items()}
    text = family.conditioning(text, group.sizes[part].to(to), trainer.dtype)
    noisy = process.add_noise(latents, noise, timesteps).to(trainer.dtype)
    with torch.no_grad():
        predicted = family.predict(trainer.unet, net, noisy, timesteps, text, control)
    wanted = process.target(latents, noise, timesteps)
    return (predicted.float() - wanted.float()).square().mean(dim=(1, 2, 3)).cpu()


def difference(fixed: Sequence[Fixed]) -> float:
    """How much the maps differ from one another: mean absolute difference of a map and the swapped one, 0..1."""
    apart = [np.abs(g.maps.astype(np.int16) - g.swapped).mean() for g in fixed]
    return float(np.average(apart, weights=[len(g.maps) for g in fixed])) / 255


def level(fixed: Sequence[Fixed]) -> float:
    """Mean of the maps, 0 (black) to 1 (white)."""
    return float(np.average([g.maps.mean() for g in fixed], weights=[len(g.maps) for g in fixed])) / 255


@dataclass(frozen=True)
class Figures:
    """What one check finds."""

    held_out_loss: float
    training_loss: float
    gain: float
    """Of the held-out pairs: loss with another's map minus the loss with the right one."""
    share: float
    """The gain as a share of each pair's loss, mean over the held-out pairs."""
    share_error: float
    """Standard error of the share."""
    training_share: float
    """The share on training pairs: far above the held-out one, the net knows its own maps by heart."""

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for value in vars(self).values())


def check(trainer: Trainer, held_out: Sequence[Fixed], trained: Sequence[Fixed], at_once: int) -> Figures:
    """Losses and gains of held-out and training pairs.

    A share is a mean of each pair's own: else the least noisy pairs, whose loss is largest and on which a map hardly
    tells, would drown the others.
    """
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    net = trainer.nets.controlnet
    training = net.training
    net.eval()
    try:
        with torch.random.fork_rng(devices=devices):
            right, wrong = (losses(trainer, held_out, swapped, at_once) for swapped in (False, True))
            on_training, misled = (losses(trainer, trained, swapped, at_once) for swapped in (False, True))
    finally:
        net.train(training)
    shares = wrong / np.maximum(right, 1e-12) - 1
    return Figures(
        held_out_loss=float(right.mean()),
        training_loss=float(on_training.mean()),
        gain=float((wrong - right).mean()),
        share=float(shares.mean()),
        share_error=float(shares.std(ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0,
        training_share=float((misled / np.maximum(on_training, 1e-12) - 1).mean()),
    )


def event(trainer: Trainer, figures: Figures, held_out: Sequence[Fixed], seconds: float) -> Checked:
    """What is told of a check of these held-out pairs."""
    f = figures
    return Checked(
        trainer.step, trainer.step * trainer.images_per_step, f.held_out_loss, f.training_loss, f.gain, f.share,
        f.share_error, difference(held_out), seconds, f.training_share, memory_gib(trainer.device), level(held_out),
    )  # fmt: skip


def memory_gib(device: torch.device) -> float:
    """Most that the card has had reserved so far; the process's own memory now, on a machine without one."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_reserved(device) / 2**30, 3)
    return round(psutil.Process().memory_info().rss / 2**30, 3)
