"""Losses of a few fixed pairs at fixed noise: whether the net follows the control image, without drawing anything.

Held-out loss: the loss on pairs that the net never trains on. Control gain: how much worse it gets when each image has
another one's control image. A net that ignores its control image has gain 0; the gain jumps when it begins to follow
it. Training loss: the same loss on as many pairs that it does train on; a growing gap is overfitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.conditions import registry
from engine.data.cache import cropped_map
from engine.jobs.events import Checked
from engine.machine.device import random_state_kept
from engine.training.fixed_images import (
    FixedImages,
    LossCheck,
    by_size,
    chosen_rows,
    fix_images,
    memory_gib,
    predict,
)
from engine.training.state import TrainState


@dataclass(frozen=True)
class Fixed(FixedImages):
    """B pairs of one size with their noise, on the CPU: the same at every check."""

    maps: np.ndarray
    """uint8 RGB (B, H, W, 3)."""
    swapped: np.ndarray
    """The same maps, each at another pair; a pair alone in its size gets its own, mirrored."""
    control: np.ndarray
    """What the family makes the control of: ``maps``, or float32 latents (B, C, h, w) where the net reads those."""
    swapped_control: np.ndarray


def fix(state: TrainState, rows: Sequence[int]) -> list[Fixed]:
    """The pairs of these rows of ``state.samples``, centre crops, grouped by size.

    Raises:
        UserError: a map is gone or cannot be read.
    """
    return [_fix(state, numbered) for numbered in by_size(state, rows)]


def _fix(state: TrainState, numbered: Sequence[tuple[int, int]]) -> Fixed:
    rows = [row for _, row in numbered]
    cache, dataset, spec = state.cache, state.dataset, state.dataset.condition
    nearest = spec is not None and registry.get(spec.type).categorical
    samples = [state.samples[row] for row in rows]
    crops = [cache.crop(row) for row in rows]
    pairs = zip(samples, crops, strict=True)
    maps = np.stack([cropped_map(dataset.condition_path(one), crop, nearest, one.old_ground) for one, crop in pairs])
    control, width = maps, 2
    if state.family.facts.control_is_encoded:
        control = np.stack([state.batches.control(row, 0, crop) for row, crop in zip(rows, crops, strict=True)])
        width = 3
    return Fixed(
        **vars(fix_images(state, numbered)),
        maps=maps,
        swapped=_swapped(maps, 2),
        control=control,
        swapped_control=_swapped(control, width),
    )


def _swapped(rows: np.ndarray, width: int) -> np.ndarray:
    """Each row at another's place; one alone is mirrored along the axis ``width``."""
    return np.roll(rows, 1, axis=0) if len(rows) > 1 else np.ascontiguousarray(np.flip(rows, axis=width))


def losses(state: TrainState, fixed: Sequence[Fixed], swapped: bool, at_once: int) -> np.ndarray:
    """Mean squared error of each pair, (B,), with its own control image or with another's (``swapped``).

    Changes no weight and no random state; nothing stays on the device.
    """
    found: list[float] = []
    for group in fixed:
        for first in range(0, len(group.maps), at_once):
            found += _part(state, group, slice(first, first + at_once), swapped).tolist()
    return np.array(found)


def _part(state: TrainState, group: Fixed, part: slice, swapped: bool) -> torch.Tensor:
    given = torch.from_numpy((group.swapped_control if swapped else group.control)[part]).to(state.device)
    predicted, target = predict(state, group, part, state.family.control_of(given).to(state.dtype))
    return (predicted - target).square().mean(dim=(1, 2, 3)).cpu()


def difference(fixed: Sequence[Fixed]) -> float:
    """Mean absolute difference of a map and the swapped one, 0..1: how much the maps differ from one another."""
    apart = [np.abs(g.maps.astype(np.int16) - g.swapped).mean() for g in fixed]
    return float(np.average(apart, weights=[len(g.maps) for g in fixed])) / 255


def level(fixed: Sequence[Fixed]) -> float:
    """Mean of the maps, 0 (black) to 1 (white)."""
    return float(np.average([g.maps.mean() for g in fixed], weights=[len(g.maps) for g in fixed])) / 255


@dataclass(frozen=True)
class Figures:
    """The figures of one check."""

    held_out_loss: float
    training_loss: float
    gain: float
    """Loss with another's map minus loss with the right one, over the held-out pairs."""
    share: float
    """The gain as a share of each pair's loss, mean over the held-out pairs."""
    share_error: float
    """Standard error of the share."""
    training_share: float
    """The share on training pairs. Far above the held-out one, the net has memorized its training maps."""
    left_out: int = 0
    """Pairs that do not count, because a loss of theirs is NaN or infinite: their images may be broken."""

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for value in vars(self).values())


def check(state: TrainState, held_out: Sequence[Fixed], trained: Sequence[Fixed], at_once: int) -> Figures:
    """Losses and gains of held-out and training pairs.

    A share is the mean of each pair's own share: otherwise the least noisy pairs, whose loss is largest and on which
    the control hardly matters, would outweigh the others.
    """
    net = state.trainable.control_net
    training = net.training
    net.eval()
    try:
        with random_state_kept(state.device):
            right, wrong = (losses(state, held_out, swapped, at_once) for swapped in (False, True))
            on_training, misled = (losses(state, trained, swapped, at_once) for swapped in (False, True))
    finally:
        net.train(training)
    given = len(right) + len(on_training)
    right, wrong = _finite_pairs(right, wrong)
    on_training, misled = _finite_pairs(on_training, misled)
    shares = wrong / np.maximum(right, 1e-12) - 1
    return Figures(
        held_out_loss=float(right.mean()),
        training_loss=float(on_training.mean()),
        gain=float((wrong - right).mean()),
        share=float(shares.mean()),
        share_error=float(shares.std(ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0,
        training_share=float((misled / np.maximum(on_training, 1e-12) - 1).mean()),
        left_out=given - len(right) - len(on_training),
    )


def _finite_pairs(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of which both losses are finite; all of them if none is, so that the figures say so."""
    finite = np.isfinite(one) & np.isfinite(other)
    return (one[finite], other[finite]) if finite.any() else (one, other)


def event(state: TrainState, figures: Figures, held_out: Sequence[Fixed], seconds: float) -> Checked:
    """Build the ``Checked`` event of one loss check."""
    return Checked(
        step=state.step,
        images_seen=state.step * state.images_per_step,
        held_out_loss=figures.held_out_loss,
        training_loss=figures.training_loss,
        control_gain=figures.gain,
        gain_share=figures.share,
        share_error=figures.share_error,
        map_difference=difference(held_out),
        seconds=seconds,
        training_share=figures.training_share,
        memory_gib=memory_gib(state.device),
        map_level=level(held_out),
    )


class ControlLosses:
    """What the loss checks of a run measure if it is judged by its control images."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self.fixed: tuple[list[Fixed], list[Fixed]] | None = None
        """Held-out pairs and training pairs; None: not chosen yet."""

    @property
    def ready(self) -> bool:
        """``prepare`` was called."""
        return self.fixed is not None

    def prepare(self) -> None:
        """Choose and read the pairs.

        Raises:
            UserError: a map is gone or cannot be read.
        """
        held_out, trained = chosen_rows(self._state)
        self.fixed = fix(self._state, held_out), fix(self._state, trained)

    def check(self, at_once: int) -> LossCheck:
        """Measure the present weights.

        Args:
            at_once: pairs in one forward pass.
        """
        assert self.fixed is not None, "prepared"
        figures = check(self._state, *self.fixed, at_once)
        return LossCheck(event(self._state, figures, self.fixed[0], 0.0), figures.finite, figures.left_out)
