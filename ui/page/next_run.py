"""The settings of the next run, which all pages edit, and whether it can start."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from engine.config import RunConfig
from engine.config.presets import Preset, all_presets, resolve, suggest
from engine.config.user_presets import UserPresets
from engine.demo.sets import demo_preset
from engine.families.distilled import usual_settings
from engine.families.files import family_of
from engine.machine.hardware import Hardware, detect
from engine.workspace.paths import Workspace
from ui.page.listing import Listing
from ui.page.readiness import check_readiness
from ui.page.states import Readiness
from ui.page.view import Draft


class NextRun:
    """The draft of the next run. Methods may be called from any thread."""

    def __init__(self, workspace: Workspace, dataset: str) -> None:
        self.workspace = workspace
        self.listing = Listing(workspace)
        self.draft = Draft(changes={"data": {"dataset": dataset}} if dataset else {})
        self.libraries_loaded = threading.Event()
        """Until torch is loaded, a page does nothing that needs it."""
        self._lock = threading.RLock()
        self._readiness: tuple[Any, Readiness] = (None, Readiness())
        self._asked: Draft | None = None

    @functools.cached_property
    def hardware(self) -> Hardware:
        return detect()

    @functools.cached_property
    def user_presets(self) -> UserPresets:
        return UserPresets(self.workspace.presets, [demo_preset(), *all_presets()])

    def preset_of(self, draft: Draft) -> Preset:
        """Return the preset that a draft changes. If another page has deleted it, the one for this machine."""
        presets = self.user_presets.all
        return presets.get(draft.preset) or presets[self.suggested_preset]

    @functools.cached_property
    def suggested_preset(self) -> str:
        """Name of the preset for this machine. Without a graphics card only the demo trains in reasonable time."""
        return "demo" if self.hardware.vram_gib is None else suggest(self.hardware.vram_gib).name

    def set_draft(self, preset: str, changes: dict[str, Any], refresh_forms: bool = False) -> None:
        """Store the form's values. ``refresh_forms``: the change did not come from the form, so redraw it."""
        with self._lock:
            self.draft = Draft(preset, changes, self.draft.number + refresh_forms)

    def edit_draft(self, edit: Callable[[Draft], Draft]) -> None:
        """Replace the draft by ``edit(draft)``. No other thread can change it meanwhile."""
        with self._lock:
            self.draft = edit(self.draft)

    def config_of(self, draft: Draft) -> tuple[RunConfig, dict[str, str]]:
        """Return the settings of a draft over its preset, and where each value comes from.

        Raises:
            UserError: a value is out of bounds.
        """
        base = self.base_of(draft)
        layers = self.preset_of(draft).layers(family_of(self.workspace, base), self.what_of(draft))
        return resolve(*usual_settings(self.workspace, base), *layers, ("you", draft.changes))

    def base_of(self, draft: Draft) -> str:
        """Return the base model of a draft. A preset's values depend on the family of the base."""
        chosen = draft.changes.get("model", {}).get("base")
        return str(self.preset_of(draft).base() if chosen is None else chosen)

    def what_of(self, draft: Draft) -> str:
        """Return what a draft trains, on which a preset's values depend as well (``tuning.what``)."""
        chosen = draft.changes.get("tuning", {}).get("what")
        return self.preset_of(draft).what if chosen is None else str(chosen)

    def readiness(self) -> Readiness:
        """Return whether the draft can start, its expected time and memory, and reasons against it."""
        draft = self.draft  # other threads may replace it, and the readiness, at any time
        dataset = str(draft.changes.get("data", {}).get("dataset") or "")
        key = (draft, self.listing.names(), self.listing.stamp_of(dataset), self.libraries_loaded.is_set())
        known, readiness = self._readiness
        if known != key:
            readiness = check_readiness(self.workspace, lambda: self.config_of(draft)[0], self.hardware, key[-1])
            self._readiness = (key, readiness)
        return readiness

    def start_pressed(self) -> None:
        """Ask for confirmation before the draft's run starts, until the draft is changed."""
        self._asked = self.draft
