"""The left half of the Conditions tab: control type, its parameters, size of the maps, varied settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.conditions import registry, variation
from ui.page.form import parameter_widget
from ui.page.messages import note

SIZES = [("512 px", 512), ("768 px", 768), ("1024 px", 1024), ("Same as the images", 0)]


@dataclass(frozen=True)
class ConditionSettings:
    """The values of the form."""

    kind: registry.ConditionType
    values: dict[str, Any]
    side: int | None
    """Shorter side of the maps, px. None: as the images are."""
    varied: int | None
    """Seed of settings that are drawn for each image. None: the same settings for all."""

    def resolved(self) -> dict[str, Any]:
        """Return all parameters. Raises UserError if one is out of bounds."""
        return registry.resolve_parameters(self.kind.name, self.values)


class ConditionForm:
    """Builds the widgets. Handlers get ``inputs`` and pass them to ``read``."""

    def __init__(self) -> None:
        types = registry.all()
        self._places = [(kind.name, parameter.name) for kind in types for parameter in kind.parameters]
        self.kind = gr.Dropdown(
            [(entry.title, entry.name) for entry in types],
            value=types[0].name,
            label="Control type",
            info="What the maps show, and what your ControlNet will follow.",
            elem_id="condition-type",
            filterable=False,
        )
        self.about = gr.HTML(about_type(types[0].name), elem_id="condition-teaches")
        self.groups, self.widgets = _parameters(types)
        with gr.Accordion("Map size and varied settings", open=False, elem_id="condition-more"):
            self.side = gr.Dropdown(
                SIZES,
                value=512,
                label="Size of the maps (shorter side)",
                info="Choose your training resolution, so that lines are as wide as the ControlNet will see them in "
                "training.",
                elem_id="condition-side",
                interactive=True,
            )
            self.vary = gr.Checkbox(
                value=False,
                label="Vary the settings",
                info="Picks different settings for each image, so that the ControlNet learns from weak and strong "
                "maps.",
                elem_id="condition-several",
                interactive=True,
            )
            self.seed = gr.Number(
                value=0,
                precision=0,
                minimum=0,
                label="Seed",
                info="The same seed picks the same settings again.",
                elem_id="condition-seed",
                interactive=True,
            )
        self.inputs = [self.kind, self.side, self.vary, self.seed, *self.widgets]

    def read(self, name: str, side: int, vary: bool, seed: int | None, *raw: Any) -> ConditionSettings:
        """Return what the widgets say. The values are checked when they are used."""
        given = zip(self._places, raw, strict=True)
        values = {parameter: value for (owner, parameter), value in given if owner == name}
        kind = registry.get(name)
        varied = int(seed or 0) if vary and variation.varies(kind) else None
        return ConditionSettings(kind, values, int(side) or None, varied)

    def show_type(self, name: str) -> list[Any]:
        """Return updates of ``about`` and of the groups for another type."""
        owners = [kind.name for kind in registry.all() if kind.parameters]
        return [about_type(name), *(gr.Group(visible=owner == name) for owner in owners)]


def about_type(name: str) -> str:
    """Return what a ControlNet learns from a type, and the weights that the type needs."""
    kind = registry.get(name)
    needs = [f"{need.id}, about {need.megabytes:,} MB, licence {need.licence}" for need in kind.models]
    return note(kind.teaches) + (note(f"Needs a model: {'; '.join(needs)}.") if needs else "")


def _parameters(types: list[registry.ConditionType]) -> tuple[list[Any], list[Any]]:
    """Build one group of widgets for each type (the first is visible), and return groups and widgets in order."""
    groups, widgets = [], []
    for place, kind in enumerate(types):
        if not kind.parameters:
            continue
        with gr.Group(visible=place == 0) as group:
            for parameter in kind.parameters:
                widgets.append(parameter_widget(parameter, f"param-{kind.name}-{parameter.name}"))
        groups.append(group)
    return groups, widgets
