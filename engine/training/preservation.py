"""Preservation: each batch has as many images again of what the base should not forget.

The second half of DreamBooth's loss (Ruiz et al. 2023, arXiv 2208.12242, section 3.3). "pictures": images that the
untrained base has drawn from the class prompts before training. "answers": the untrained base's own predictions for the
noisy images of the batch, with captions that do not name what is taught. Both are pure functions of (seed, position),
so a resumed run repeats them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.training.batch_order import order
from engine.training.batches import Batch, Task
from engine.training.randomness import random_numbers
from engine.training.state import TrainState

STREAM = 0x5EED
"""Added to the run's seed: class images have an order and noise of their own."""


def joined(task: Task, others: Task, share: float) -> Task:
    """Both in one batch, whose mean loss is the mean of the first plus ``share`` times the mean of the second."""
    return Task(
        torch.cat([task.noisy, others.noisy]),
        torch.cat([task.timesteps, others.timesteps]),
        {name: torch.cat([rows, others.text[name]]) for name, rows in task.text.items()},
        torch.cat([task.target, others.target]),
        2 * torch.cat([task.weights, share * others.weights]),
    )


class BasePredictions:
    """The untrained base's own predictions on other captions."""

    def __init__(self, state: TrainState, captions: Sequence[str]) -> None:
        """
        Args:
            captions: which the run's cache holds.
        """
        self._state, self._captions = state, captions

    def others(self, task: Task, batch: Batch) -> Task:
        state, first, count = self._state, batch.position, len(task.noisy)
        chosen = order(state.config.train.seed + STREAM, len(self._captions), first, count)
        captions = [self._captions[row] for row in chosen]
        with torch.no_grad(), state.trainable.untrained():
            text = self._text(captions, batch)
            target = state.family.predict(state.denoiser, None, task.noisy, task.timesteps, text, None).float()
        if state.trainable.learned_text is not None:  # as text encoders read it that have learned
            text = self._text(captions, batch)
        weights = state.noise_process.loss_weights(task.timesteps, state.config.objective.min_snr_gamma)
        return Task(task.noisy, task.timesteps, text, target, weights)

    def _text(self, captions: Sequence[str], batch: Batch) -> dict[str, torch.Tensor]:
        state, guidance = self._state, self._state.config.objective.guidance
        rows = {name: tensor.to(state.device) for name, tensor in state.cache.text(captions).items()}
        encoded = state.trainable.encode_text(rows)
        return state.family.conditioning(encoded, batch.sizes, state.dtype, batch.random.even, guidance)


class ClassImages:
    """Images of the class prompts that the untrained base has drawn."""

    def __init__(self, state: TrainState, latents: torch.Tensor, captions: Sequence[str]) -> None:
        """
        Args:
            latents: of all images, fp32 (n, C, h, w), as the denoiser sees them.
            captions: of each image; the run's cache holds them.
        """
        self._state, self._latents, self._captions = state, latents, captions

    def others(self, task: Task, batch: Batch) -> Task:
        state, process = self._state, self._state.noise_process
        first, count = batch.position, len(task.noisy)
        objective, seed, device = state.config.objective, state.config.train.seed + STREAM, state.device
        rows = order(seed, len(self._latents), first, count)
        shape = tuple(self._latents.shape[1:])
        random = random_numbers(seed, first, count, shape, process.num_train_timesteps, 0.0)
        latents, noise = self._latents[rows].to(device), random.noise.to(device)
        noise = noise + objective.offset_noise * random.offset.to(device)
        uniform = random.uniform_timesteps.to(device)
        timesteps = process.shape_timesteps(uniform, objective.timestep_sampling, (shape[-2], shape[-1]))
        captions = [self._captions[row] for row in rows]
        text = {name: tensor.to(device) for name, tensor in state.cache.text(captions).items()}
        side = state.config.data.resolution
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * count, dtype=torch.float32, device=device)
        encoded = state.trainable.encode_text(text)
        return Task(
            process.add_noise(latents, noise, timesteps).to(state.dtype),
            timesteps,
            state.family.conditioning(encoded, sizes, state.dtype, random.even.to(device), objective.guidance),
            process.target(latents, noise, timesteps),
            process.loss_weights(timesteps, objective.min_snr_gamma),
        )
