"""Checks, before a long job, that a condition type can make maps: it has its weights, or its program is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.conditions import weights
from engine.conditions.declaration import ConditionType
from engine.conditions.types import external


def check(condition: ConditionType, values: Mapping[str, Any]) -> None:
    """Loads the weights or checks the program. Raises UserError once, instead of one error for each image."""
    for model in condition.models:
        weights.loaded(model, str(values[model.parameter]))
    if condition.program:
        external.command_of(str(values[condition.program]))
        external.require(str(values[condition.program]))


def allow(condition: ConditionType, values: Mapping[str, Any]) -> None:
    """Allows the program of these parameters. Call it when the user asks for maps on this machine.

    Raises UserError if there is no program.
    """
    if condition.program:
        external.command_of(str(values[condition.program]))
        external.allow(str(values[condition.program]))
