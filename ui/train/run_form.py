"""The settings of the next run: a preset, the few settings that everyone chooses, and the rest folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import gradio as gr

from engine import config
from engine.bases.listed import listed_bases
from engine.config import RunConfig
from engine.config.presets import flatten, unflatten
from engine.config.user_presets import RUN_ONLY
from engine.errors import UserError
from ui.page.context import AppContext
from ui.page.form import describe, parse_value, widget
from ui.page.live import Live
from ui.page.view import Draft, View
from ui.train.bases_panel import build_bases
from ui.train.settings_panel import RESET_ALL, build_settings, changes_html
from ui.train.shown_forms import Shown, ShownForms

PRESET = "preset"
"""Name of the preset among the values of the form."""


class RunForm:
    """Widgets that show the context's draft, and handlers that write what the user enters into the draft."""

    def __init__(self, context: AppContext, live: Live, below: Any = None) -> None:
        """Build the form.

        Args:
            below: the column for the settings that are not needed at each start; None: right below the others.
        """
        self._context = context
        self._forms = ShownForms()
        values = self._values(context.draft)
        stamp = self._forms.add(context.draft.number, values)
        self.stamp = gr.Number(stamp, precision=0, elem_id="form-stamp", elem_classes="pressed-by-script")
        self.preset = gr.Dropdown(
            self._presets(),
            value=values[PRESET],
            label="Preset",
            info=f"Chosen for this computer: {context.hardware.sentence}.",
            elem_id="train-preset",
        )
        self.settings = {"data.dataset": self._dataset(), "model.base": self._base(str(values["model.base"]))}
        with gr.Row(equal_height=True):
            steps = config.fields("train")["steps"]
            self.settings["train.steps"] = widget(steps, values["train.steps"], "set-train-steps")
            self.name = gr.Textbox(label="Name of the run", info="Empty: the dataset's name.", max_lines=1)
        with below or nullcontext():
            build_bases(context, live)
            made, self.changed = build_settings(values)
        self.settings |= made
        self.inputs = [self.stamp, self.preset, self.name, *self.settings.values()]
        self._wire(live)

    def _dataset(self) -> Any:
        hint = "Images with their condition maps."
        return gr.Dropdown([], label="Dataset", info=hint, allow_custom_value=True, elem_id="set-data-dataset")

    def _base(self, value: str) -> Any:
        about = describe(config.fields("model")["base"])
        return gr.Dropdown(
            self._bases(),
            value=value,
            allow_custom_value=True,
            label=about.label,
            info=about.hint,
            elem_id="set-model-base",
        )

    def _bases(self) -> list[str]:
        """Return the demo base and what is in the workspace's models. Downloaded bases go by their hub id."""
        try:
            names = [path.name for path in self._context.workspace.models.iterdir() if not path.name.startswith(".")]
        except OSError:
            names = []  # the folder is gone, or its disk: the demo base is still there
        ids = {base.id.replace("/", "--"): base.id for base in listed_bases()}
        return ["demo", *sorted(ids.get(name, name) for name in names)]

    def _wire(self, live: Live) -> None:
        for box in (self.preset, self.name, *self.settings.values()):
            live.on(box.input, self.remember, self.inputs)
        live.on(self.changed.click, self.reset)
        live.outputs(self.inputs, lambda view: (view.draft.number, view.datasets), self._render, "form")
        live.outputs(
            [self.changed], lambda view: str(view.draft), lambda view: [changes_html(self._changed(view.draft))]
        )

    def reset(self, event: gr.EventData) -> None:
        """Set one setting back to the preset's value, or all but the dataset."""
        self.set_back(str(getattr(event, "setting", "")))

    def set_back(self, dotted: str) -> None:
        """Set a setting back to the preset's value; ``RESET_ALL``: all but the dataset."""

        def edit(draft: Draft) -> Draft:
            changes = flatten(draft.changes)
            gone = [key for key in changes if key not in RUN_ONLY and dotted in (key, RESET_ALL)]
            left = {key: value for key, value in changes.items() if key not in gone}
            return replace(draft, changes=unflatten(left), number=draft.number + bool(gone))

        self._context.edit_draft(edit)

    def _changed(self, draft: Draft) -> dict[str, tuple[Any, Any]]:
        """Return the settings that are not the preset's: the value and the preset's, by dotted name in form order."""
        changes, usual = flatten(draft.changes), self._usual_values(draft)
        known = [key for key in self.settings if key in changes and key not in RUN_ONLY]
        return {key: (changes[key], usual[key]) for key in known if changes[key] != usual[key]}

    def remember(self, stamp: Any, preset: str, name: str, *raw: Any) -> None:
        """Write what was changed in a page's form into the draft. Another preset brings all its values.

        Args:
            stamp: of the rendering that the page shows.
        """
        self._take(stamp, preset, name, raw)

    def take_all(self, stamp: Any, preset: str, name: str, *raw: Any) -> None:
        """Do the same for a button that uses all settings: the page has to show them as they are.

        Raises:
            UserError: something was changed on another page, and is not shown on this one yet.
        """
        if elsewhere := self._take(stamp, preset, name, raw):
            titles = [field.title or "" for dotted in elsewhere if (field := config.field_of(dotted)) is not None]
            raise UserError(
                "Nothing was started.",
                f"Settings were changed on another page: {', '.join(titles) or 'the preset'}.",
                "This page shows them now. Look at them, and press the button again.",
            )

    def _take(self, stamp: Any, preset: str, name: str, raw: Sequence[Any]) -> list[str]:
        """Write what was changed into the draft. Returns what was changed on another page and is not shown here."""
        parsed = {dotted: parse_value(dotted, value) for dotted, value in zip(self.settings, raw, strict=True)}
        given = {PRESET: preset, "name": name.strip(), **parsed}
        elsewhere: list[str] = []

        def edit(draft: Draft) -> Draft:
            now = self._values(draft)
            shown = self._forms.get(stamp) or Shown(draft.number, now)
            before = dict(shown.values)
            edited = shown.take(given)
            if draft.number == shown.number:  # otherwise a redraw is on its way
                elsewhere.extend(key for key in now if key not in edited and now[key] != before[key])
            changed = self._edited(draft, edited)
            moved = changed.preset != draft.preset or self._context.base_of(changed) != self._context.base_of(draft)
            return replace(changed, number=draft.number + (moved or bool(elsewhere)))

        self._context.edit_draft(edit)
        return elsewhere

    def _edited(self, draft: Draft, edited: Mapping[str, Any]) -> Draft:
        """Return a draft with what was changed in the form. A value that is the preset's is no change."""
        changes, preset = flatten(draft.changes), edited.get(PRESET, draft.preset)
        if PRESET in edited:  # it brings all its values; dataset and name stay
            changes = {key: changes[key] for key in RUN_ONLY if changes.get(key)}
        usual = self._usual_values(Draft(preset, unflatten(changes)))
        for key, value in edited.items():
            if key == PRESET:
                continue
            if value == usual[key]:
                changes.pop(key, None)
            else:
                changes[key] = value
        return Draft(preset, unflatten(changes), draft.number)

    def _usual_values(self, draft: Draft) -> dict[str, Any]:
        """Return the values of a draft's preset, for the draft's base model, by dotted name."""
        plain = flatten(self._of_preset(draft.preset, self._context.base_of(draft)).model_dump())
        return plain | {"model.base": self._context.base_of(Draft(draft.preset))}

    def _of_preset(self, preset: str, base: str) -> RunConfig:
        """Return a preset's settings for a base model."""
        return self._context.config_of(Draft(preset, {"model": {"base": base}}))[0]

    def _values(self, draft: Draft) -> dict[str, Any]:
        """Return what the form shows of a draft, by name. Values of the user's may be out of bounds."""
        preset = self._context.preset_of(draft).name
        return {PRESET: preset, **self._usual_values(draft), **flatten(draft.changes)}

    def _presets(self) -> list[tuple[str, str]]:
        return [(preset.title, name) for name, preset in self._context.user_presets.all.items()]

    def _render(self, view: View) -> list[Any]:
        draft = self._context.draft
        values = self._values(draft)
        filled = [values[dotted] for dotted in self.settings]
        filled[0] = gr.Dropdown(list(view.datasets), value=values["data.dataset"] or None)
        filled[1] = gr.Dropdown(self._bases(), value=values["model.base"])
        preset = gr.Dropdown(self._presets(), value=values[PRESET])
        return [self._forms.add(draft.number, values), preset, values["name"], *filled]
