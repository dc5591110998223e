"""Losses of the last steps, still on the card: reading one waits for the card, so several are read together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.jobs.events import StepDone
from engine.machine.clock import active_time
from engine.training.faults import report_skipped
from engine.training.state import TrainState
from engine.training.step import Skipped

READ_EVERY_ON_CARD, READ_EVERY_ELSEWHERE = 10, 1
"""Steps whose losses are read together."""


def read_losses(state: TrainState, losses: Sequence[tuple[int, torch.Tensor]]) -> list[float | Skipped]:
    """Read the losses of some steps (number from 1, scalar on the device). Steps that the card skipped are counted.

    The card marks a step whose loss is finite, but a gradient is not, by a loss of -inf (``Parallel.card_skips``).
    """
    found: list[float | Skipped] = []
    values: list[float] = torch.stack([loss for _, loss in losses]).tolist() if losses else []
    for (step, _), value in zip(losses, values, strict=True):
        if math.isfinite(value):
            found.append(value)
        else:
            state.loss_scale.skipped(step)
            found.append(Skipped("gradients" if value == -math.inf else "loss"))
    return found


class UnreadLosses:
    """Reports the steps of a run: at once on a processor, up to READ_EVERY_ON_CARD late on a card."""

    def __init__(self, state: TrainState, save: Callable[[], Any]) -> None:
        """
        Args:
            save: writes a checkpoint of the present step.
        """
        self._state, self._save = state, save
        self._at_once = READ_EVERY_ON_CARD if state.on_card else READ_EVERY_ELSEWHERE
        self._steps: list[tuple[int, torch.Tensor]] = []
        self._rates: list[float] = []
        self._seconds = 0.0

    def add(self, rate: float, seconds: float, loss: torch.Tensor) -> None:
        """Add the loss of the step that was just taken.

        Args:
            rate: the step's learning rate.
            seconds: its duration on the CPU, which does not wait for a card.
            loss: a scalar on the device.

        Raises:
            TrainingBroke: too many steps were skipped.
        """
        self._steps.append((self._state.step, loss))
        self._rates.append(rate)
        self._seconds += seconds
        if len(self._steps) >= self._at_once:
            self.read()

    def read(self) -> None:
        """Read and report the remaining losses. Call it before anything that needs them, such as a checkpoint.

        Raises:
            TrainingBroke: too many steps were skipped.
        """
        state, steps, rates = self._state, self._steps, self._rates
        began = active_time()
        outcomes = read_losses(state, steps)
        each = (self._seconds + active_time() - began) / max(1, len(steps))  # the card worked on all of them
        self._steps, self._rates, self._seconds = [], [], 0.0
        for (step, _), rate, outcome in zip(steps, rates, outcomes, strict=True):
            if isinstance(outcome, Skipped):
                report_skipped(state, step, outcome, self._save)
            else:
                state.emit(StepDone(step, step * state.images_per_step, outcome, rate, each))
