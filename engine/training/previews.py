"""Pictures and scores of a run in progress, drawn with the weights that are in memory."""

from __future__ import annotations

from engine.training.trainer import Trainer


def preview_during_training(trainer: Trainer, step: int) -> None:
    raise NotImplementedError
