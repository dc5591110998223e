"""What the guide knows: the way that the person has chosen, and how far their own dataset and base are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.bases.catalog import HUB_ID, catalog_bases, state_of
from engine.conditions import registry
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.runs.run import Run
from engine.workspace.paths import Workspace, bundled_bases
from engine.workspace.remembered import GUIDE, remember, remembered
from ui.page.listing import LISTING_SECONDS, Listing, is_demo_set

Way = Literal["", "demo", "own"]
HIDDEN, SHOWN = "hidden", "shown"


@dataclass(frozen=True)
class OwnFacts:
    """How far the user's own dataset and base are."""

    dataset: str = ""
    """Its name; empty: there is none yet."""
    images: int = 0
    without_caption: int = 0
    maps: int = 0
    """Images that have a control image."""
    obeys: str = ""
    """Title of the condition type of these."""
    base: str = ""
    """The chosen base by its usual name; empty: none was chosen but one that comes with the app."""
    base_here: bool = False
    """It is on this computer."""
    base_fault: str = ""
    """What is wrong with it, as a sentence."""
    own_run: bool = False
    """The run on the Train tab is trained on images of their own."""


@dataclass(frozen=True)
class GuideState:
    """What the card shows."""

    way: Way = ""
    hidden: bool = False
    unfolded: bool | None = None
    """All steps are shown. None: while there is no dataset of one's own."""
    facts: OwnFacts = OwnFacts()

    @property
    def shown_way(self) -> Way:
        """The way that was chosen, or the one that a dataset of the user's own implies."""
        return self.way or ("own" if self.facts.dataset else "")

    @property
    def folded(self) -> bool:
        """The checklist is one line."""
        return bool(self.facts.dataset) if self.unfolded is None else not self.unfolded


class Guide:
    """The guide's state, which all pages share. The choice to hide it outlasts the session."""

    def __init__(self, workspace: Workspace, listing: Listing, runs: Sequence[Run]) -> None:
        self._workspace, self._listing = workspace, listing
        done = [run.config.data.dataset for run in runs if run.completed]
        kept = remembered(workspace).get(GUIDE, "")
        hidden = kept == HIDDEN or (kept != SHOWN and any(not is_demo_set(name) for name in done))
        # Someone who has only done the demo gets one line about what comes next.
        self.state = GuideState("own", hidden, False) if done else GuideState(hidden=hidden)
        self._dataset: tuple[Any, OwnFacts] = (None, OwnFacts())
        self._run: tuple[str, bool] = ("", False)
        self._base: tuple[float, str, tuple[str, bool, str]] = (-LISTING_SECONDS, "", ("", False, ""))

    def choose(self, way: Way, unfolded: bool | None = None) -> None:
        """Take one of the two ways."""
        self.state = replace(self.state, way=way, unfolded=unfolded)

    def unfold(self, unfolded: bool) -> None:
        """Show all steps, or one line."""
        self.state = replace(self.state, unfolded=unfolded)

    def hide(self, hidden: bool = True) -> None:
        """Hide the card, also at the next start; or show it again. Raises UserError if that cannot be remembered."""
        self.state = replace(self.state, hidden=hidden)
        remember(self._workspace, **{GUIDE: HIDDEN if hidden else SHOWN})

    def look(self, datasets: Sequence[str], chosen: str, base: str, run: str) -> GuideState:
        """Return the current state.

        Args:
            chosen: the dataset of the next run. base: its base model. run: the run on the Train tab, or empty.
        """
        if self.state.hidden:
            return self.state
        own = [name for name in datasets if not is_demo_set(name)]
        name = chosen if chosen in own else next(iter(own), "")
        key = name, self._listing.stamp_of(name)
        if self._dataset[0] != key:
            self._dataset = key, dataset_facts(self._workspace, name)
        seen_at, before, found = self._base
        if before != base or time.monotonic() - seen_at > LISTING_SECONDS:
            found = base_facts(self._workspace, base)
            self._base = time.monotonic(), base, found
        if self._run[0] != run:
            self._run = run, bool(run) and _is_own(self._workspace, run)
        title, here, fault = found
        facts = replace(self._dataset[1], base=title, base_here=here, base_fault=fault, own_run=self._run[1])
        return replace(self.state, facts=facts)


def dataset_facts(workspace: Workspace, name: str) -> OwnFacts:
    """The facts about a dataset; the defaults if it is missing or damaged, which the Dataset tab explains."""
    if not name:
        return OwnFacts()
    try:
        dataset = Dataset.open(workspace.dataset_folder(name))
        images, empty = dataset.count(), dataset.captions.count(dataset.index.path, "empty")
        maps = dataset.count(ready=True) if dataset.condition else 0
        obeys = registry.get(dataset.condition.type).title if dataset.condition else ""
    except UserError:
        return OwnFacts()
    return OwnFacts(name, images, empty, maps, obeys)


def _is_own(workspace: Workspace, run: str) -> bool:
    try:
        return not is_demo_set(Run(workspace.runs / run).config.data.dataset)
    except UserError:
        return False  # damaged: the Train tab says so


def base_facts(workspace: Workspace, base: str) -> tuple[str, bool, str]:
    """The base's name for people (empty for a bundled one), whether it is here, and what is wrong with it."""
    if base in bundled_bases() or not base:
        return "", False, ""
    title = next((one.title for one in catalog_bases() if one.id == base), Path(base).name or base)
    try:
        located = Path(workspace.locate_base(base))
    except UserError as error:
        return title, False, error.what
    if located in bundled_bases().values():
        return "", False, ""
    here = located.exists() or (bool(HUB_ID.fullmatch(base)) and state_of(workspace, base).kind == "downloaded")
    return title, here, ""
