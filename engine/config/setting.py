"""Declaring a setting with its title, unit, bounds and help."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def setting(
    default: Any,
    title: str,
    help: str,
    *,
    unit: str = "",
    advanced: bool = False,
    lines: int = 1,
    affects_speed: bool | Literal["on or off"] = False,
    **bounds: Any,
) -> Any:
    """A pydantic field with what forms, docs and the command line show of it.

    Args:
        lines: height of its text box.
        affects_speed: whether a step takes another time, or other memory, with another value; "on or off" if it only
            matters whether the value is zero. Measurements of one run hold for another if these settings are the same.
    """
    extra: dict[str, Any] = {"unit": unit, "advanced": advanced, "lines": lines, "affects_speed": affects_speed}
    return Field(default, title=title, description=help, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """A group of settings. Immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True)
