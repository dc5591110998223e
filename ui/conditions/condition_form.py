"""The left half of the Conditions tab: the type, its parameters, several strengths, the maps' size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.conditions import registry, strengths
from ui.page.form import parameter_widget
from ui.page.messages import note

SIZES = [("512 px", 512), ("768 px", 768), ("1024 px", 1024), ("As the images are", 0)]


@dataclass(frozen=True)
class Wanted:
    """What the form says."""

    kind: registry.ConditionType
    values: dict[str, Any]
    side: int | None
    varied: int | None

    def resolved(self) -> dict[str, Any]:
        """All parameters. Raises UserError for one out of bounds."""
        return registry.resolve_parameters(self.kind.name, self.values)


class ConditionForm:
    """Builds the widgets; ``inputs`` are handed to ``read`` by every handler."""

    def __init__(self) -> None:
        types = registry.all()
        self._places = [(kind.name, parameter.name) for kind in types for parameter in kind.parameters]
        self.kind = gr.Dropdown(
            [(entry.title, entry.name) for entry in types],
            value=types[0].name,
            label="The net will obey",
            elem_id="condition-type",
            filterable=False,
        )
        self.teaches = gr.HTML(teaches(types[0].name), elem_id="condition-teaches")
        self.groups, self.widgets = _parameters(types)
        with gr.Accordion("Size and variety", open=False, elem_id="condition-more"):
            self.side = gr.Dropdown(
                SIZES,
                value=512,
                label="Size of the maps (shorter side)",
                info="As large as you will train. Lines get as wide as the net will see them.",
                elem_id="condition-side",
                interactive=True,
            )
            self.several = gr.Checkbox(
                value=False,
                label="Several strengths",
                info="Draws the settings anew for each image, so that the net learns to read weak and strong maps.",
                elem_id="condition-several",
                interactive=True,
            )
            self.seed = gr.Number(
                value=0,
                precision=0,
                minimum=0,
                label="Seed",
                info="The same number draws the same settings again.",
                elem_id="condition-seed",
                interactive=True,
            )
        self.inputs = [self.kind, self.side, self.several, self.seed, *self.widgets]

    def read(self, name: str, side: int, several: bool, seed: int | None, *raw: Any) -> Wanted:
        """What the widgets say; values are checked when they are used."""
        given = zip(self._places, raw, strict=True)
        values = {parameter: value for (owner, parameter), value in given if owner == name}
        kind = registry.get(name)
        varied = int(seed or 0) if several and strengths.varies(kind) else None
        return Wanted(kind, values, int(side) or None, varied)

    def follow(self, name: str) -> list[Any]:
        """Updates of ``teaches`` and the groups after another type was chosen."""
        owners = [kind.name for kind in registry.all() if kind.parameters]
        return [teaches(name), *(gr.Group(visible=owner == name) for owner in owners)]


def teaches(name: str) -> str:
    """What the net learns, and what the type needs."""
    kind = registry.get(name)
    needs = [f"{need.id}, about {need.megabytes:,} MB, licence {need.licence}" for need in kind.models]
    return note(kind.teaches) + (note(f"Needs weights: {'; '.join(needs)}.") if needs else "")


def _parameters(types: list[registry.ConditionType]) -> tuple[list[Any], list[Any]]:
    """One group of widgets a type (only the first is seen at the start), and all widgets in order."""
    groups, widgets = [], []
    for place, kind in enumerate(types):
        if not kind.parameters:
            continue
        with gr.Group(visible=place == 0) as group:
            for parameter in kind.parameters:
                widgets.append(parameter_widget(parameter, f"param-{kind.name}-{parameter.name}"))
        groups.append(group)
    return groups, widgets
