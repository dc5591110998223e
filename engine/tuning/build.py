"""The trainable that a run's settings ask for."""

from __future__ import annotations

from typing import Any

import torch

from engine.config import RunConfig
from engine.families.layers import Layers
from engine.tuning.controlnet import ControlLora, WholeControlNet
from engine.tuning.facts import facts_of
from engine.tuning.trainable import Placement, Trainable
from engine.tuning.unlocked import UnlockedDecoder


def base_dtype(config: RunConfig, dtype: torch.dtype) -> torch.dtype:
    """What to load the denoiser in: the run's dtype where it is frozen, fp32 where master weights start from it."""
    return dtype if facts_of(config).base_is_frozen else torch.float32


def build_trainable(config: RunConfig, control_net: Any, denoiser: Any, place: Placement, layers: Layers) -> Trainable:
    """Build the trainable of a run.

    Args:
        control_net: from ``initial_controlnet``.
        denoiser: in ``base_dtype``; afterwards in the placement's dtype.
        layers: of the base's family.
    """
    facts = facts_of(config)
    kind = ControlLora if facts.rank else WholeControlNet

    def build_control() -> WholeControlNet:
        return kind(control_net, place, layers.outer_outputs if config.objective.only_mid_control else ())

    return build_control() if facts.base_is_frozen else UnlockedDecoder(denoiser, place, layers, build_control)
