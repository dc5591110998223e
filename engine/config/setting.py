"""How a setting is declared: title, unit, bounds and help travel with the field."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def setting(
    default: Any, title: str, help: str, *, unit: str = "", advanced: bool = False, lines: int = 1, **bounds: Any
) -> Any:
    """A pydantic field that also knows how to present itself. ``lines``: height of a text box."""
    extra: dict[str, Any] = {"unit": unit, "advanced": advanced, "lines": lines}
    return Field(default, title=title, description=help, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True)
