"""Forms come from the config: every field has a widget, and what is not changed is not written."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from engine import config
from engine.conditions import registry
from engine.config.presets import flatten, resolve, unflatten
from ui.page import form

DEFAULTS = config.RunConfig()
FIELDS = {f"{section}.{name}": field for section in config.SECTIONS for name, field in config.fields(section).items()}
CHANGED: dict[str, Any] = {"text": "something", "integer": 64, "number": 0.05, "slider": 0.5}


def widgets() -> dict[str, Any]:
    values = flatten(DEFAULTS.model_dump())
    with gr.Blocks():
        plain = form.section_widgets(config.SECTIONS, values, advanced=False)
        return plain | form.section_widgets(config.SECTIONS, values, advanced=True)


def other_value(dotted: str) -> Any:
    """Return another allowed value of a field, in the type that its widget returns."""
    about = form.describe(FIELDS[dotted])
    present = flatten(DEFAULTS.model_dump())[dotted]
    if about.kind == "choice":
        return next(choice for choice in about.choices if choice != present)
    if about.kind == "switch":
        return not present
    if about.kind == "integer":
        steps = [bound.multiple_of for bound in FIELDS[dotted].metadata if hasattr(bound, "multiple_of")]
        return present + float(*steps or [1])  # a browser sends 5.0 for 5
    if about.kind in ("number", "slider"):
        return present / 2 if present else 0.5
    return CHANGED[about.kind]


@pytest.mark.answers("accelerate, DeepSpeed, xformers, bitsandbytes, triton, chardet: what do I need?")
def test_every_field_of_the_config_has_a_widget() -> None:
    assert set(widgets()) == set(FIELDS)


@pytest.mark.parametrize("dotted", list(FIELDS))
def test_labels_carry_title_and_unit_and_there_is_a_hint(dotted: str) -> None:
    about, field = form.describe(FIELDS[dotted]), FIELDS[dotted]
    unit = field.json_schema_extra["unit"]
    assert field.title in about.label
    assert unit.lower() in about.label.lower()
    assert about.hint


@pytest.mark.parametrize("dotted", list(FIELDS))
def test_one_changed_field_comes_back_alone_and_is_accepted(dotted: str) -> None:
    given = flatten(DEFAULTS.model_dump(include=set(config.SECTIONS)))
    given[dotted] = other_value(dotted)
    changes = {name: form.parse_value(name, raw) for name, raw in given.items()}
    changes = {name: value for name, value in changes.items() if value != flatten(DEFAULTS.model_dump())[name]}
    assert list(changes) == [dotted]
    result, origins = resolve(("you", unflatten(changes)))
    assert flatten(result.model_dump())[dotted] == given[dotted]
    assert [name for name, origin in origins.items() if origin == "you"] == [dotted]


def test_an_emptied_number_is_refused_with_a_message() -> None:
    changes = {"train": {"steps": form.parse_value("train.steps", None)}}
    with pytest.raises(config.UserError, match=r"train\.steps"):
        resolve(("you", changes))


@pytest.mark.parametrize("condition", registry.all(), ids=lambda condition: condition.name)
def test_parameters_of_every_condition_become_widgets(condition: Any) -> None:
    with gr.Blocks():
        made = {p.name: form.parameter_widget(p, p.name).value for p in condition.parameters}
    assert registry.resolve_parameters(condition.name, made) == registry.resolve_parameters(condition.name)
