"""One optimizer step, from the batch to the moving average.

Memory that runs out and compilers that fail are handled around it (``faults.py``), several processes behind
``state.parallel``. Random numbers come from (seed, position), so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from engine.training import oom
from engine.training.batches import Task
from engine.training.preservation import joined
from engine.training.speed import mark_cuda_graph_step
from engine.training.state import TrainState


class Skipped(NamedTuple):
    """A step without an update."""

    not_finite: Literal["loss", "gradients"]
    """What was NaN or infinite."""


def train_step(state: TrainState) -> torch.Tensor | Skipped | None:
    """Take one optimizer step over ``state.micro_batches`` micro-batches.

    Returns:
        The mean loss, a scalar on the device (reading it waits for the card). Where the card itself skips steps
        (``Parallel.card_skips``), one that is not finite stands for a skipped step (``losses.py``). Or ``Skipped``: the
        loss or a gradient is not finite, and the run continues with the next step. Or None: the step has to be tried
        again, at a smaller loss scale. No weight has changed in these two cases, in any process.

    Raises:
        RuntimeError, MemoryError: memory ran out, or a compiled net failed, before or in the optimizer's update. The
            step can be repeated (``faults.take_step`` does).
        UserError: memory ran out twice after the update, in the compute copy or the EMA; or the next batch cannot be
            read.
    """
    objective, family, noise_process = state.config.objective, state.family, state.noise_process
    step_loss = torch.zeros((), device=state.device)
    for micro in range(state.micro_batches):
        # Batch: cached latents, text embeddings and control images.
        batch = state.next_batch(micro).to(state.device)

        # Latents, noise and timesteps. Noise is added in fp32. With input perturbation the net sees other noise than
        # the target is made of.
        latents = state.latent_space.sample(batch.mean, batch.logvar, batch.random.posterior)
        noise = batch.random.noise + objective.offset_noise * batch.random.offset
        size = (latents.shape[-2], latents.shape[-1])
        timesteps = noise_process.shape_timesteps(batch.random.uniform_timesteps, objective.timestep_sampling, size)
        noise_seen = noise + objective.input_perturbation * batch.random.perturbation
        noisy = noise_process.add_noise(latents, noise_seen, timesteps).to(state.dtype)

        # Text and control image, in the run's precision. A run without condition maps has no control; where
        # words or text encoders are trained, the batch has token numbers, and they are encoded here.
        encoded = state.trainable.encode_text(batch.text)
        text = family.conditioning(encoded, batch.sizes, state.dtype, batch.random.even, objective.guidance)
        control = None if batch.maps is None else family.control_of(batch.maps).to(state.dtype)

        # Target of the prediction, and the weight of each image's loss.
        target = noise_process.target(latents, noise, timesteps)
        loss_weights = noise_process.loss_weights(timesteps, objective.min_snr_gamma) * batch.weights

        # Preservation: as many images again, of what the base should not forget (preservation.py).
        task = Task(noisy, timesteps, text, target, loss_weights)
        if state.batches.preservation is not None:
            others = state.batches.preservation.others(task, batch)
            task = joined(task, others, state.config.tuning.preserve_weight)

        # Distillation: the target comes from the untrained base and from the net itself (distillation.py).
        if state.batches.distillation is not None:
            task = state.batches.distillation.task(batch, latents, noise_seen, timesteps, text, control)

        with state.parallel.micro_batch(last=micro + 1 == state.micro_batches):
            # Prediction under control, and its loss in fp32. CUDA graphs may reuse the previous micro-batch's memory.
            mark_cuda_graph_step(state)
            denoiser, net = state.nets.denoiser, state.nets.net
            predict = state.nets.predict or family.predict
            predicted = predict(denoiser, net, task.noisy, task.timesteps, task.text, control)
            huber_c = objective.huber_c if objective.loss == "huber" else None
            compared = task.compared(predicted)
            loss = denoising_loss(compared, task.target, task.weights, huber_c) / state.micro_batches

            # Backward, with the loss scaled for fp16. Hooks on the compute copy add each gradient to its fp32 master
            # weight (nets/master_weights.py). DeepSpeed and the optimizer in backward also clip and update here.
            state.parallel.backward(loss * state.loss_scale.value)
        step_loss += loss.detach()

    # Mean of the gradients (where the backward pass has not averaged them) and of the loss over all processes.
    step_loss = state.parallel.average_gradients_and_loss(step_loss)

    # Unscale and clip. If the loss or a gradient is not finite, in whichever process, no weight changes: gradients that
    # overflow in fp16 are tried again at a smaller loss scale (loss_scale.py), otherwise the step is skipped. In bf16
    # and fp32 a card skips it by itself: the EMA counts it as a step that left the weights as they were.
    max_norm, this_step = state.config.optim.max_grad_norm, state.step + 1
    finite = state.parallel.unscale_and_clip(step_loss, max_norm, state.loss_scale.value)
    if not (finite.loss and finite.gradients):
        state.drop_gradients()
        if finite.loss and state.loss_scale.overflowed(this_step):
            return None
        state.loss_scale.skipped(this_step)
        return Skipped("gradients" if finite.loss else "loss")

    # Optimizer: update the master weights. If it ran out of memory halfway in an earlier try of this step, the weights
    # that it had updated are left out.
    with state.weights_update():
        state.parallel.optimizer_step()
    state.parallel.zero_grad()

    # Cast the updated master weights into the compute copy, then update the EMA. From here on the step cannot be
    # repeated, so whatever runs out of memory is itself retried once; the texts name it in messages.
    oom.retry_once(state, f"copy of the weights of step {this_step:,}", state.trainable.weights.refresh)
    if state.ema is not None:
        oom.retry_once(state, f"average of step {this_step:,}", state.update_ema, oom.ema_fallback)
    state.loss_scale.held()
    return step_loss


def denoising_loss(
    predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, huber_c: float | None = None
) -> torch.Tensor:
    """Weighted mean squared error in fp32, or pseudo-Huber error: (B, ...), (B, ...), (B,) -> scalar.

    Pseudo-Huber: 2 c (sqrt(error^2 + c^2) - c), which is error^2 for errors far below c. Source: Khrapov et al. 2024,
    "Improving Diffusion Models's Data-Corruption Resistance using Scheduled Pseudo-Huber Loss", arXiv 2403.16728.
    """
    errors = (predicted.float() - target.float()).square()
    if huber_c is not None:
        errors = 2 * huber_c * ((errors + huber_c**2).sqrt() - huber_c)
    return (errors.mean(dim=tuple(range(1, target.ndim))) * weights.float()).mean()
