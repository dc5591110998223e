"""Builds widgets from the declarations of settings, and reads their values. No setting is named here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from engine import config
from engine.conditions.declaration import Parameter

Kind = Literal["text", "integer", "number", "slider", "choice", "switch"]


@dataclass(frozen=True)
class FieldDescription:
    """How a field is shown. A ``slider`` is a number between two close bounds."""

    kind: Kind
    label: str
    hint: str
    advanced: bool
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    lines: int = 1
    """Height of a text box, in lines."""


def describe(field: Any) -> FieldDescription:
    """Return how a pydantic field of the config is shown."""
    extra = field.json_schema_extra or {}
    unit = extra.get("unit", "")
    label = f"{field.title} ({unit})" if unit and unit not in field.title.lower() else field.title
    common = (label, field.description or "", bool(extra.get("advanced", False)))
    if get_origin(field.annotation) is Literal:
        return FieldDescription("choice", *common, choices=tuple(get_args(field.annotation)))
    if field.annotation is bool:
        return FieldDescription("switch", *common)
    if field.annotation is str:
        return FieldDescription("text", *common, lines=int(extra.get("lines", 1)))
    low, high = _bound(field, "ge", "gt"), _bound(field, "le", "lt")
    if field.annotation is int:
        return FieldDescription("integer", *common, low=low, high=high)
    # Only close, inclusive bounds make a slider: 0 to 1 does, the bounds of a learning rate do not.
    closed = _bound(field, "ge") is not None and _bound(field, "le") is not None
    close = low is not None and high is not None and high - low <= 2
    return FieldDescription("slider" if closed and close else "number", *common, low=low, high=high)


def _bound(field: Any, *names: str) -> float | None:
    for constraint in field.metadata:
        for name in names:
            if getattr(constraint, name, None) is not None:
                return float(getattr(constraint, name))
    return None


def widget(field: Any, value: Any, elem_id: str, of_draft: bool = True) -> Any:
    """Build the component of one field. The config checks the bounds, so that all problems are reported together.

    Args:
        of_draft: style.css hides it where it has no meaning for the run of the form (``setting(only=...)``).
    """
    about = describe(field)
    classes = [f"only-{kind}" for kind in marks(field)] if of_draft else []
    common = {"label": about.label, "info": about.hint, "elem_id": elem_id, "interactive": True}
    common["elem_classes"] = classes
    if about.kind == "choice":
        return gr.Dropdown(list(about.choices), value=value, **common)
    if about.kind == "switch":
        return gr.Checkbox(value=value, **common)
    if about.kind == "text":
        return gr.Textbox(value=value, lines=about.lines, max_lines=about.lines, **common)
    if about.kind == "slider":
        return gr.Slider(about.low, about.high, value=value, step=0.05, **common)
    return gr.Number(value=value, precision=0 if about.kind == "integer" else None, **common)


def marks(field: Any) -> tuple[str, ...]:
    """Return the kinds of run that a field has a meaning for; none: all runs."""
    return tuple((field.json_schema_extra or {}).get("only", ()))


def section_widgets(
    sections: Collection[str], values: Mapping[str, Any], advanced: bool, skip: Collection[str] = ()
) -> dict[str, Any]:
    """Build the widgets of the advanced fields of some sections, or of the others, by dotted name in config order."""
    made = {}
    for section in sections:
        for name, field in config.fields(section).items():
            dotted = f"{section}.{name}"
            if dotted not in skip and describe(field).advanced == advanced:
                made[dotted] = widget(field, values[dotted], elem_id="set-" + dotted.replace(".", "-"))
    return made


def parse_value(dotted: str, raw: Any) -> Any:
    """Convert a widget's value to the type of its field. None (an emptied box) stays None; the config refuses it."""
    section, name = dotted.split(".")
    kind = describe(config.fields(section)[name]).kind
    if raw is None:
        return "" if kind == "text" else None
    if kind == "integer":
        return int(raw) if float(raw).is_integer() else raw
    if kind in ("number", "slider"):
        return float(raw)
    return str(raw).strip() if kind == "text" else raw


def parameter_widget(parameter: Parameter, elem_id: str) -> Any:
    """Build the widget of one declared parameter of a condition type."""
    common = {"label": parameter.title, "info": parameter.hint, "elem_id": elem_id, "interactive": True}
    if parameter.kind == "bool":
        return gr.Checkbox(value=bool(parameter.default), **common)
    if parameter.kind == "choice":
        return gr.Radio(list(parameter.choices), value=str(parameter.default), **common)
    if parameter.kind == "text":
        return gr.Textbox(value=str(parameter.default), max_lines=1, **common)
    return gr.Slider(parameter.low, parameter.high, value=parameter.default, step=parameter.step or 0.1, **common)
