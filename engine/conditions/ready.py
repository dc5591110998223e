"""Checks, before a long job, that a condition type can make maps: it has its weights, or its program is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.conditions import weights
from engine.conditions.declaration import ConditionType
from engine.conditions.types import external
from engine.errors import UserError


def check(condition: ConditionType, values: Mapping[str, Any]) -> None:
    """Compares the parameters, loads the weights or checks the program.

    Raises UserError once, instead of one error for each image.
    """
    if wrong := condition.contradictions(values):
        raise UserError(
            f"These parameters of {condition.title} contradict each other.",
            " ".join(wrong),
            "Lower the first or raise the second.",
        )
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
