"""What users enter in the form of the next run, and the draft that it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from engine import config
from engine.config.presets import flatten, unflatten
from engine.config.user_presets import RUN_ONLY
from engine.errors import UserError
from ui.page.context import AppContext
from ui.page.form import parse_value
from ui.page.view import Draft
from ui.train.settings_panel import RESET_ALL
from ui.train.shown_forms import Shown, ShownForms

PRESET = "preset"
"""Name of the preset among the values of the form."""


class DraftEdits:
    """Writes what users enter into the context's draft. It knows no widgets."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.names: tuple[str, ...] = ()
        """Dotted names of the form's settings, in the order in which pages send their values."""
        self.shown = ShownForms()

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

        self.context.edit_draft(edit)

    def changed(self, draft: Draft) -> dict[str, tuple[Any, Any]]:
        """Return the settings that are not the preset's: the value and the preset's, by dotted name in form order."""
        changes, usual = flatten(draft.changes), self.usual_values(draft)
        known = [key for key in self.names if key in changes and key not in RUN_ONLY]
        return {key: (changes[key], usual[key]) for key in known if changes[key] != usual[key]}

    def remember(self, stamp: Any, sent: Any, preset: str, name: str, *raw: Any) -> None:
        """Write what was changed in a page's form into the draft. Another preset brings all its values.

        Args:
            stamp: of the rendering that the page shows.
            sent: when the page sent this (``Shown.sent``).
        """
        self._take(stamp, sent, preset, name, raw)

    def take_all(self, stamp: Any, sent: Any, preset: str, name: str, *raw: Any) -> None:
        """Do the same for a button that uses all settings: the page has to show them as they are.

        Raises:
            UserError: something was changed on another page, and is not shown on this one yet.
        """
        if elsewhere := self._take(stamp, None, preset, name, raw):
            titles = [field.title or "" for dotted in elsewhere if (field := config.field_of(dotted)) is not None]
            raise UserError(
                "Nothing was started.",
                f"Settings were changed on another page: {', '.join(titles) or 'the preset'}.",
                "This page now shows them. Check them, then press the button again.",
            )

    def _take(self, stamp: Any, sent: Any, preset: str, name: str, raw: Sequence[Any]) -> list[str]:
        """Write what was changed into the draft. Returns what was changed on another page and is not shown here."""
        parsed = {dotted: parse_value(dotted, value) for dotted, value in zip(self.names, raw, strict=True)}
        given = {PRESET: preset, "name": name.strip(), **parsed}
        elsewhere: list[str] = []

        def edit(draft: Draft) -> Draft:
            now = self.values(draft)
            shown = self.shown.get(stamp) or Shown(draft.number, now)
            before = dict(shown.values)
            edited = shown.take(given, float(sent or 0))
            if draft.number == shown.number:  # otherwise a redraw is on its way
                elsewhere.extend(key for key in now if key not in edited and now[key] != before[key])
            changed = self._edited(draft, edited)
            moved = self._preset_values_of(changed) != self._preset_values_of(draft)
            return replace(changed, number=draft.number + (moved or bool(elsewhere)))

        self.context.edit_draft(edit)
        return elsewhere

    def _edited(self, draft: Draft, edited: Mapping[str, Any]) -> Draft:
        """Return a draft with what was changed in the form. A value that is the preset's is no change."""
        changes, preset = flatten(draft.changes), edited.get(PRESET, draft.preset)
        if PRESET in edited:  # it brings all its values; dataset and name stay
            changes = {key: changes[key] for key in RUN_ONLY if changes.get(key)}
        usual = self.usual_values(Draft(preset, unflatten(changes)))
        for key, value in edited.items():
            if key == PRESET:
                continue
            if value == usual[key]:
                changes.pop(key, None)
            else:
                changes[key] = value
        return Draft(preset, unflatten(changes), draft.number)

    def usual_values(self, draft: Draft) -> dict[str, Any]:
        """Return the values of a draft's preset, for its base model and what it trains, by dotted name."""
        preset, base, what = self._preset_values_of(draft)
        chosen = {"model": {"base": base}, "tuning": {"what": what}}
        plain = flatten(self.context.config_of(Draft(preset, chosen))[0].model_dump())
        alone = Draft(draft.preset)
        return plain | {"model.base": self.context.base_of(alone), "tuning.what": self.context.what_of(alone)}

    def _preset_values_of(self, draft: Draft) -> tuple[str, str, str]:
        """Return what the values of a preset depend on: the preset, the base, what is trained."""
        return draft.preset, self.context.base_of(draft), self.context.what_of(draft)

    def values(self, draft: Draft) -> dict[str, Any]:
        """Return what the form shows of a draft, by name. Values of the user's may be out of bounds."""
        preset = self.context.preset_of(draft).name
        return {PRESET: preset, **self.usual_values(draft), **flatten(draft.changes)}
