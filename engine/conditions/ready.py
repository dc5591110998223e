"""What a type has to have before a long job starts: its weights, or leave to run the user's program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.conditions import weights
from engine.conditions.declaration import ConditionType
from engine.conditions.types import external


def check(condition: ConditionType, values: Mapping[str, Any]) -> None:
    """Loads the weights, or looks at the program. Raises UserError, so that not every image fails with the same."""
    for need in condition.models:
        weights.held(need, str(values[need.parameter]))
    if condition.program:
        external.command_of(str(values[condition.program]))
        external.require(str(values[condition.program]))


def allow(condition: ConditionType, values: Mapping[str, Any]) -> None:
    """A person at this machine asked for these maps: their program may run from now on. Raises UserError for none."""
    if condition.program:
        external.command_of(str(values[condition.program]))
        external.allow(str(values[condition.program]))
