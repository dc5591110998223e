"""One step: batch, noise, timestep, control, prediction, target, loss, backward, clip, move."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

import torch

from engine.errors import UserError
from engine.training import oom, speed
from engine.training.objective import denoising_loss

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

MAX_SKIPPED = {"fp16": 30, "bf16": 3, "fp32": 3}
"""In a row. fp16 halves its loss scale each time; of the others the same step again gives the same, but for chance."""


class Trouble(Enum):
    """Why a step was not taken. Weights, optimizer and schedule are as before."""

    MEMORY = "memory ran out"
    OVERFLOW = "a gradient is not a number, or infinite"


def take_step(trainer: Trainer) -> torch.Tensor | Trouble:
    """Forward, backward, the optimizer's step and the average's: the mean loss, on the device, or why nothing moved.

    Raises:
        UserError: memory ran out for what follows the optimizer's step, twice.
    """
    try:
        if trainer.nets.stale:
            trainer.nets.refresh()
        loss = trainer.sharing.combine(lambda: accumulate(trainer))
        if not clip(trainer):
            trainer.loss_scale.overflowed()
            oom.forget_gradients(trainer)
            return Trouble.OVERFLOW
        if trainer._broke_off:
            oom.drop_finished(trainer.optimizer)
        trainer._broke_off = True
        trainer.prepared_optimizer.step()
        trainer._broke_off = False
        trainer.prepared_optimizer.zero_grad(set_to_none=True)
        oom.settle(trainer)
        trainer.loss_scale.held()
        trainer.sharing.went_well()
        return loss
    except Exception as error:
        if oom.is_out_of_memory(error):
            return Trouble.MEMORY
        if not speed.gave_up(trainer, error):
            raise
    oom.clear(trainer)  # of what the compiler left
    return take_step(trainer)


def accumulate(trainer: Trainer) -> torch.Tensor:
    """Forward and backward of every micro-batch that is this process's; their mean loss, on the device.

    Afterwards the weights that learn have fp32 gradients, ``loss_scale`` times too large.
    """
    objective, process, to = trainer.config.objective, trainer.noise_process, trainer.device
    count = trainer.config.train.accumulation // trainer.processes.count
    total = torch.zeros((), device=to)
    for micro in range(count):
        batch = trainer.promises.batch(trainer.step * count + micro).to(to)
        draws = batch.draws
        noise = draws.noise + objective.offset_noise * draws.offset
        timesteps = process.shape_timesteps(draws.timesteps, objective.timestep_sampling)
        latents = trainer.latent_space.sample(batch.mean, batch.logvar, draws.posterior)
        noisy = process.add_noise(latents, noise, timesteps)
        text = trainer.family.conditioning(batch.text, batch.sizes, trainer.dtype)
        control = trainer.family.encode_control(batch.maps).to(trainer.dtype)
        weights = process.loss_weights(timesteps, objective.min_snr_gamma)
        wanted = process.target(latents, noise, timesteps)
        with trainer.sharing.part(last=micro + 1 == count):
            speed.begin_step(trainer)
            unet, net = trainer.stepping_unet, trainer.model
            predicted = trainer.family.predict(unet, net, noisy.to(trainer.dtype), timesteps, text, control)
            loss = denoising_loss(predicted, wanted, weights) / count
            trainer.accelerator.backward(loss * trainer.loss_scale.value)
        total += loss.detach()
    return total


def clip(trainer: Trainer) -> bool:
    """Undo the loss scale and shorten the gradients to the norm that the settings allow; False: not all are finite."""
    scale, most = trainer.loss_scale.value, trainer.config.optim.max_grad_norm
    parameters = list(trainer.learning.parameters())
    norm = trainer.accelerator.clip_grad_norm_(parameters, most * scale)
    if trainer.prepared_optimizer.step_was_skipped:  # DeepSpeed has looked itself
        return False
    if not math.isfinite(float(getattr(norm, "full_tensor", lambda: norm)())):  # divided nets have divided norms
        return False
    if scale != 1:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / scale)
    return True


def give_up_after(trainer: Trainer, skipped: int) -> None:
    """Stop a run that skips one step after another: at its last good state, which is kept.

    Raises:
        UserError: that many in a row are no accident.
    """
    if skipped < MAX_SKIPPED[trainer.precision]:
        return
    sound = all(trainer.processes.gather(all(bool(torch.isfinite(p).all()) for p in trainer.learning.parameters())))
    if sound:
        trainer.save()
    kept = f"The state of step {trainer.step:,} is good and saved." if sound else "Its weights are broken, too."
    if trainer.precision == "fp16":
        raise UserError(
            f"Training broke at step {trainer.step + 1:,}: fp16 overflows at every try.",
            f"The loss scale was halved {skipped} times in a row. {kept}",
            "Choose bf16 or fp32 (Precision), or a lower learning rate, and resume from the last checkpoint.",
        )
    raise UserError(
        f"Training broke at step {trainer.step + 1:,}: the loss is not a number any more.",
        f"The learning rate is too high for this set, or the precision too low. {kept}",
        "Halve the learning rate (or choose fp32 or bf16) and resume from the last checkpoint.",
    )
