"""Declaring a setting with its title, unit, bounds and help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MayChange = Literal["", "course", "memory"]
Only = Literal[
    "transformers",
    "controlnet",
    "net",
    "factors",
    "text",
    "lcm",
    "word",
    "named",
    "preserved",
    "preserving",
    "drawing",
    "teaching",
]
"""Runs on a transformer base, that train a ControlNet, that may use one, that train a LoRA of any kind, that may train
text encoders, that train an LCM-LoRA, a new word, something with a word of its own, something that may preserve what
the base knows, that do preserve it, that draw class images for it, that teach the base something."""
WHY_FIXED = (
    "A run keeps it from its first step to its last, so that its figures, images and checkpoints can be compared."
)


def setting(
    default: Any,
    title: str,
    help: str,
    *,
    unit: str = "",
    advanced: bool = False,
    lines: int = 1,
    affects_speed: bool | Literal["on or off", "in fp32", "in half precision", "in a quantized base"] = False,
    may_change: MayChange = "",
    why_fixed: str = "",
    only: Sequence[Only] = (),
    **bounds: Any,
) -> Any:
    """A pydantic field with what forms, docs and the command line show of it.

    Args:
        lines: height of its text box.
        affects_speed: whether a step takes another time, or other memory, with another value; "on or off" if it only
            matters whether the value is zero, "in fp32", "in half precision" and "in a quantized base" if it matters
            there only. Measurements of one run hold for another if these settings are the same.
        may_change: whether a run may be resumed with another value. "course": it changes the rest of the training.
            "memory": it changes what memory and time a step takes, and the images of a step stay the same.
        only: the runs that it has a meaning for; the form hides it for others. (): all runs.
        why_fixed: for a setting that may not, a sentence that says why; empty: the usual one.
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "advanced": advanced,
        "lines": lines,
        "affects_speed": affects_speed,
        "may_change": may_change,
        "why_fixed": why_fixed or WHY_FIXED,
        "only": tuple(only),
    }
    return Field(default, title=title, description=help, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """A group of settings. Immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True)
