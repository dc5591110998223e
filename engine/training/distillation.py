"""Latent consistency distillation: a LoRA learns from its own base to draw in few steps.

The student, the base with the LoRA, predicts clean latents from noisy ones at a timestep. Its target is its own
prediction from what the teacher, the base without it, makes of these latents by one guided step of DDIM. Both compute
under the same frozen ControlNet, if the run has one. A pure function of the batch and the weights, so a resumed run
repeats it. Formulas and sources: engine/tuning/consistency.py.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from engine.families.noise import DiffusionNoise
from engine.training.batches import Batch, Task
from engine.training.state import TrainState
from engine.tuning.consistency import consistency, ddim_step, guided, solver_timesteps
from engine.tuning.facts import facts_of


class ConsistencyDistillation:
    """Makes the task of each batch of a run that distils."""

    def __init__(self, state: TrainState, process: DiffusionNoise) -> None:
        self._state, self._process = state, process

    @torch.no_grad()
    def task(
        self,
        batch: Batch,
        latents: torch.Tensor,
        noise: torch.Tensor,
        drawn: torch.Tensor,
        text: dict[str, torch.Tensor],
        control: torch.Tensor | None,
    ) -> Task:
        """The noisy latents of these images, and the target of the student's prediction.

        Args:
            batch: on the device.
            latents: fp32 (B, C, h, w). ``noise``: alike.
            drawn: timesteps (B,); each becomes the solver's next.
            text: from ``Family.conditioning``.
            control: from ``Family.control_of``; None: the run has no ControlNet.
        """
        state, process = self._state, self._process
        tuning, predict = state.config.tuning, state.family.predict
        denoiser, net = state.denoiser, state.trainable.control_net
        timesteps, earlier = solver_timesteps(drawn, process.num_train_timesteps)
        noisy = process.add_noise(latents, noise, timesteps).to(state.dtype)

        # The teacher: one step of DDIM at a guidance scale of each image's own.
        scale = tuning.guidance_low + (tuning.guidance_high - tuning.guidance_low) * batch.random.even
        with state.trainable.untrained():
            predicted = predict(denoiser, net, noisy, timesteps, text, control)
            if tuning.guidance_high > 1:
                empty = self._empty_text(batch)
                predicted = guided(predicted, predict(denoiser, net, noisy, timesteps, empty, control), scale)
        nearer = ddim_step(process, noisy, predicted, timesteps, earlier).to(state.dtype)

        # The student, where that step ends. With an EMA its average predicts: LCM's target network.
        with state.exported_weights() if state.ema is not None else nullcontext():
            predicted = predict(denoiser, net, nearer, earlier, text, control)
        target = consistency(process, nearer, predicted, earlier)

        def as_latents(predicted: torch.Tensor) -> torch.Tensor:
            return consistency(process, noisy, predicted, timesteps)

        return Task(noisy, timesteps, text, target, batch.weights, as_latents)

    def _empty_text(self, batch: Batch) -> dict[str, torch.Tensor]:
        state, guidance = self._state, self._state.config.objective.guidance
        rows = state.cache.text([""] * len(batch.mean))
        encoded = {name: tensor.to(state.device) for name, tensor in rows.items()}
        return state.family.conditioning(encoded, batch.sizes, state.dtype, batch.random.even, guidance)


def distillation_of(state: TrainState) -> ConsistencyDistillation | None:
    """The distillation that the run's settings ask for; None for other runs."""
    if not facts_of(state.config).distilled:
        return None
    process = state.noise_process
    assert isinstance(process, DiffusionNoise), "tuning/requirements.py refuses other bases"
    return ConsistencyDistillation(state, process)
