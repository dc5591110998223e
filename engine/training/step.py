"""One optimizer step, from the batch to the moving average.

Memory that runs out and compilers that fail are handled around it (``faults.py``), several processes behind
``state.parallel``. Random numbers come from (seed, position), so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import torch

from engine.training import oom
from engine.training.speed import begin_micro_batch
from engine.training.state import TrainState


def train_step(state: TrainState) -> torch.Tensor | None:
    """Take one optimizer step over ``state.micro_batches`` micro-batches.

    Returns:
        The mean loss, a scalar on the device (reading it waits for the card), or None where a gradient is not finite:
        then nothing has changed but the loss scale.

    Raises:
        UserError: memory ran out twice for what follows the optimizer's step.
    """
    objective, family, noise_process = state.config.objective, state.family, state.noise_process
    step_loss = torch.zeros((), device=state.device)
    for micro in range(state.micro_batches):
        # Batch: cached latents, text embeddings and control images.
        batch = state.next_batch(micro).to(state.device)

        # Latents, noise and timesteps. Noise is added in fp32.
        latents = state.latent_space.sample(batch.mean, batch.logvar, batch.draws.posterior)
        noise = batch.draws.noise + objective.offset_noise * batch.draws.offset
        timesteps = noise_process.shape_timesteps(batch.draws.timesteps, objective.timestep_sampling)
        noisy = noise_process.add_noise(latents, noise, timesteps).to(state.dtype)

        # Text and control image, in the run's precision.
        text = family.conditioning(batch.text, batch.sizes, state.dtype)
        control = family.encode_control(batch.maps).to(state.dtype)

        # Target of the prediction, and the weight of each image's loss.
        target = noise_process.target(latents, noise, timesteps)
        loss_weights = noise_process.loss_weights(timesteps, objective.min_snr_gamma)

        with state.parallel.micro_batch(last=micro + 1 == state.micro_batches):
            # Prediction under control, and its loss in fp32.
            begin_micro_batch(state)
            net, denoiser = state.wrapped_net, state.wrapped_denoiser
            predicted = family.predict(denoiser, net, noisy, timesteps, text, control)
            loss = denoising_loss(predicted, target, loss_weights) / state.micro_batches

            # Backward: gradients accumulate in the fp32 master weights, loss_scale times too large.
            state.parallel.backward(loss * state.loss_scale.value)
        step_loss += loss.detach()

    # Mean over all processes.
    step_loss = state.parallel.reduce(step_loss)

    # Unscale and clip. A gradient that is not finite skips the step.
    if not state.parallel.unscale_and_clip(state.config.optim.max_grad_norm, state.loss_scale.value):
        state.loss_scale.update(found_inf=True)
        state.drop_gradients()
        return None

    # Optimizer: the master weights move.
    with state.weights_update():
        state.parallel.optimizer_step()
    state.parallel.zero_grad()

    # What follows the master weights: the compute copy, then the EMA. Each happens exactly once (oom.finish).
    this_step = f"step {state.step + 1:,}"
    oom.finish(state, f"copy of the weights of {this_step}", state.trainable.weights.refresh)
    if state.ema is not None:
        oom.finish(state, f"average of {this_step}", state.update_ema, oom.ema_fallback(state.config, state.on_card))
    state.loss_scale.update(found_inf=False)
    return step_loss


def denoising_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean squared error in fp32: (B, ...), (B, ...), (B,) -> scalar."""
    per_image = (predicted.float() - target.float()).square().mean(dim=tuple(range(1, target.ndim)))
    return (per_image * weights.float()).mean()
