"""Losses of a run that teaches the base: its gain on held-out images, and its drift on captions of other things.

Gain: by how much the loss on images that the run never trains on is below that of the untrained base. Drift: how much
the base's predictions have changed for other captions, as a share of its own loss there. The images of these captions
are drawn by the untrained base, so that they are what it would have drawn. Both at fixed noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from engine.disk.durable import atomic_write
from engine.errors import UserError
from engine.evaluation.pairs import ImageRequest, draw, no_side_effects
from engine.jobs.events import BaseChecked, PhaseChanged, Progress
from engine.machine.device import random_state_kept
from engine.training.fixed_images import (
    NOISE_SEED,
    FixedImages,
    LossCheck,
    by_size,
    chosen_rows,
    fix_images,
    fixed_noise,
    fixed_timesteps,
    memory_gib,
    predict,
)
from engine.training.previews import DrawPreviews, models_without_control
from engine.training.state import TrainState

FILE = "base_answers.safetensors"
"""The untrained base's predictions and losses, in the run's folder: written at step 0, read by a resumed run."""


@dataclass(frozen=True)
class BaseReference:
    """The untrained base's losses and predictions, with which the trained weights' are compared."""

    held_out: np.ndarray
    """Loss of each image, (B,)."""
    training: np.ndarray
    other: np.ndarray
    """Loss on its own images of other captions, (B,)."""
    predictions: torch.Tensor
    """Its predictions for these, fp32 (B, C, h, w)."""


class BaseLosses:
    """What the loss checks of a run measure if it is judged by its images and captions alone."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._held_out: list[FixedImages] = []
        self._training: list[FixedImages] = []
        self._other: list[FixedImages] = []
        self._base: BaseReference | None = None

    @property
    def ready(self) -> bool:
        """``prepare`` was called."""
        return self._base is not None

    def prepare(self) -> None:
        """Read the images. At step 0, also draw those of other captions, and keep what the untrained base predicts.

        Raises:
            UserError: a resumed run has none. Cancelled: while drawing.
        """
        state, path = self._state, self._state.run_folder / FILE
        count = state.config.validation.check_pairs
        self._held_out, self._training = (
            [fix_images(state, group) for group in by_size(state, list(islice(cycle(some), count)))] if some else []
            for some in chosen_rows(state)  # few images are measured several times, at other noise
        )
        latents = _draw_others(state) if state.step == 0 else _stored(path, "latents")
        self._other = [_other_images(state, latents)]
        if state.step == 0:
            at_once = state.config.train.batch_size
            held_out, training = (losses(state, some, at_once) for some in (self._held_out, self._training))
            predicted, errors = _predictions(state, self._other[0], at_once)
            self._base = BaseReference(held_out, training, errors, predicted)
            _store(path, latents, self._base)
            return
        held_out, training, errors = (_stored(path, name).numpy() for name in ("held_out", "training", "other"))
        self._base = BaseReference(held_out, training, errors, _stored(path, "predictions"))

    def check(self, at_once: int) -> LossCheck:
        """Measure the present weights.

        A gain is 1 minus the geometric mean of each image's loss as a share of the untrained base's; drift is a mean of
        such shares. Otherwise the least noisy images, whose loss is largest, would outweigh the others.

        Args:
            at_once: images in one forward pass.
        """
        state, base = self._state, self._base
        assert base is not None, "prepared"
        with random_state_kept(state.device):
            held_out, training = (losses(state, some, at_once) for some in (self._held_out, self._training))
            predicted, _ = _predictions(state, self._other[0], at_once)
        changes = (predicted - base.predictions).square().mean(dim=tuple(range(1, predicted.ndim))).numpy()
        ratios, training_ratios = np.log(held_out / base.held_out), np.log(training / base.training)
        drifts = changes / base.other
        found = BaseChecked(
            step=state.step,
            images_seen=state.step * state.images_per_step,
            held_out_loss=_mean(held_out),
            training_loss=_mean(training),
            gain=1 - math.exp(_mean(ratios)),
            gain_error=math.exp(_mean(ratios)) * _standard_error(ratios),
            training_gain=1 - math.exp(_mean(training_ratios)),
            drift=_mean(drifts),
            drift_error=_standard_error(drifts),
            seconds=0.0,
            memory_gib=memory_gib(state.device),
        )
        left_out = sum(int((~np.isfinite(some)).sum()) for some in (ratios, training_ratios, drifts))
        return LossCheck(found, all(map(math.isfinite, vars(found).values())), left_out)


def losses(state: TrainState, fixed: Sequence[FixedImages], at_once: int) -> np.ndarray:
    """Mean squared error of each image, (B,)."""
    return np.concatenate([_predictions(state, group, at_once)[1] for group in fixed]) if fixed else np.empty(0)


def _predictions(state: TrainState, group: FixedImages, at_once: int) -> tuple[torch.Tensor, np.ndarray]:
    """Predictions, fp32 (B, C, h, w) on the CPU, and the mean squared error of each, (B,)."""
    predicted, errors = [], []
    for first in range(0, group.count, at_once):
        prediction, target = predict(state, group, slice(first, first + at_once))
        predicted.append(prediction.cpu())
        errors.append((prediction - target).square().mean(dim=tuple(range(1, prediction.ndim))).cpu())
    return torch.cat(predicted), torch.cat(errors).numpy()


def _draw_others(state: TrainState) -> torch.Tensor:
    """Latents of the untrained base's own images of other captions, fp32 (B, C, h, w)."""
    side, captions = state.config.data.resolution, state.config.validation.captions_of_others
    blank = np.zeros((side, side, 3), np.uint8)
    requests = [ImageRequest(blank, text, NOISE_SEED + number) for number, text in enumerate(captions)]

    state.emit(PhaseChanged("validating"))
    models = models_without_control(state, lambda prompts: DrawPreviews().encode(state, prompts))
    with no_side_effects(models):
        drawn = draw(
            models,
            requests,
            state.config.validation,
            state.token,
            lambda done, total, label: state.emit(Progress(done, total, "Images of the untrained base, for its drift")),
            batch=state.images_at_once,
        )
    state.emit(PhaseChanged("running"))
    return torch.stack(drawn).float()


def _other_images(state: TrainState, latents: torch.Tensor) -> FixedImages:
    side, numbers = state.config.data.resolution, range(len(latents))
    sizes = [side, side, 0, 0, side, side]
    return FixedImages(
        latents=latents,
        noise=fixed_noise(state, numbers, tuple(latents.shape[1:])),
        timesteps=fixed_timesteps(state, numbers),
        text=state.cache.text(state.config.validation.captions_of_others),
        sizes=torch.tensor([sizes] * len(latents), dtype=torch.float32),
    )


def _store(path: Path, latents: torch.Tensor, base: BaseReference) -> None:
    tensors = {"latents": latents, "predictions": base.predictions}
    tensors |= {name: torch.from_numpy(getattr(base, name)) for name in ("held_out", "training", "other")}
    with atomic_write(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def _stored(path: Path, name: str) -> torch.Tensor:
    try:
        return load_file(path)[name]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            "Gain and drift are not measured any more.",
            f"{path.name} in the run's folder, with the predictions of the untrained base, cannot be read ({error}).",
            "The training goes on. A new run measures them again.",
        ) from error


def _mean(values: np.ndarray) -> float:
    """Over the finite ones; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _standard_error(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) / math.sqrt(len(finite)) if len(finite) > 1 else 0.0
