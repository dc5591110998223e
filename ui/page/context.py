"""What every tab is handed: the workspace, the one job runner, and what the pages share."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.conditions import places, weights
from engine.config import RunConfig
from engine.config.presets import Preset, all_presets, resolve, suggest
from engine.config.user_presets import UserPresets
from engine.demo.sets import demo_preset
from engine.errors import UserError
from engine.estimate.estimate import estimate
from engine.families.files import family_of
from engine.jobs.control import BorrowRequest
from engine.jobs.runner import JobRunner
from engine.jobs.snapshot import JobSnapshot
from engine.machine.hardware import Hardware, detect
from engine.training.job import missing
from engine.workspace.paths import Workspace
from ui.page.problems import ProblemPanel
from ui.page.shown_run import find_unfinished, open_runs, read_run
from ui.page.states import Readiness, RunFacts, train_view
from ui.page.view import Draft, Result, View
from ui.server.shutdown import Ending

FILES_SECONDS = 2.0  # how long a look at the workspace's files is good for


class AppContext(ProblemPanel):
    """One for the process. Methods may be called from any thread."""

    def __init__(self, workspace: Workspace, runner: JobRunner | None = None, local: bool = True) -> None:
        super().__init__(runner or JobRunner())
        self.workspace = workspace
        places.use(workspace)
        self.local = local  # the browser runs on this machine, so that folder dialogs can open here
        self.focus_dataset = next(iter(workspace.dataset_names()), "")
        self.draft = Draft(changes={"data": {"dataset": self.focus_dataset}} if self.focus_dataset else {})
        runs = open_runs(workspace)
        self.card_hidden = any(run.completed for run in runs)
        """The first-start card is of no use any more."""
        self.unfinished = find_unfinished(runs)
        """Runs of earlier sittings, offered until one is trained."""
        self.ending = Ending()
        self.results: dict[str, Result] = {}
        self.warm = threading.Event()
        """The large libraries are loaded; before that, nothing that needs them is done for a page."""
        self._lock = threading.RLock()
        self._try: Any = None
        self.request: BorrowRequest | None = None
        """The drawing that a training does in between, the last one."""
        self._focus_run: str | None = None  # None: whatever is newest
        self.beats: Callable[[], list[int]] = list
        """What pages ask every second, once the window is built; see ui/page/live.py."""
        self._training: JobSnapshot | None = None
        self._readiness: tuple[Any, Readiness] = (None, Readiness())
        self._history: tuple[Any, JobSnapshot, RunFacts | None] = (None, JobSnapshot(), None)
        self._files: tuple[float, tuple[str, ...], tuple[str, ...]] = (-FILES_SECONDS, (), ())

    @functools.cached_property
    def hardware(self) -> Hardware:
        return detect()

    @functools.cached_property
    def user_presets(self) -> UserPresets:
        return UserPresets(self.workspace.presets, [demo_preset(), *all_presets()])

    def preset_of(self, draft: Draft) -> Preset:
        """Which one a draft stands on. One that another page has deleted meanwhile: the one for this machine."""
        there = self.user_presets.all
        return there.get(draft.preset) or there[self.suggested_preset]

    @functools.cached_property
    def suggested_preset(self) -> str:
        """Name of the preset for this machine. Without a card only the demo base trains in reasonable time."""
        return "demo" if self.hardware.vram_gib is None else suggest(self.hardware.vram_gib).name

    # -- the next run -------------------------------------------------------------------------------------------------

    def set_draft(self, preset: str, changes: dict[str, Any], tell_pages: bool = False) -> None:
        """Remember the form; ``tell_pages`` where the forms on the pages have to follow."""
        with self._lock:
            self.draft = Draft(preset, changes, self.draft.number + tell_pages)

    def config_of(self, draft: Draft) -> tuple[RunConfig, dict[str, str]]:
        """The draft over its preset.

        Raises:
            UserError: a value is out of bounds.
        """
        layers = self.preset_of(draft).layers(family_of(self.workspace, self.base_of(draft)))
        return resolve(*layers, ("you", draft.changes))

    def base_of(self, draft: Draft) -> str:
        """Which base a draft is for; a preset may say otherwise for another family of bases."""
        chosen = draft.changes.get("model", {}).get("base")
        return str(self.preset_of(draft).base() if chosen is None else chosen)

    def readiness(self) -> Readiness:
        """Whether the draft could start, and what it would take."""
        key = (self.draft, self.files(), self.warm.is_set())
        if self._readiness[0] != key:
            self._readiness = (key, self._look_ready())
        return self._readiness[1]

    def _look_ready(self) -> Readiness:
        try:
            if not self.files()[0]:
                return Readiness("There is no dataset yet: make one on the Dataset tab.")
            config, _ = self.config_of(self.draft)
            sentences = missing(self.workspace, config)
            if sentences:
                return Readiness(" ".join(sentences))
            caution = self._caution(config) if self.warm.is_set() else ""
            return Readiness("", f"{estimate(config, self.workspace, self.hardware).summary}. {caution}".strip())
        except UserError as error:
            return Readiness(f"{error.what} {error.why} {error.try_this}")

    def _caution(self, config: RunConfig) -> str:
        """What the base was recognised as, and what will hardly work although it can start."""
        located = self.workspace.locate_base(config.model.base)
        if not Path(located).exists():
            return ""  # on the hub: nothing is fetched for a hint
        from engine.families.registry import describe
        from engine.families.registry import detect as detect_family

        known = f"The base: {describe(located)}."
        side = detect_family(located).default_resolution(located)
        if config.data.resolution == side:
            return known
        return f"{known} Careful: it was made for {side} px, and the resolution is {config.data.resolution} px."

    # -- what the pages see -------------------------------------------------------------------------------------------

    def files(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the datasets and of the runs (newest first), looked up every other second at most."""
        looked, datasets, runs = self._files
        if time.monotonic() - looked > FILES_SECONDS:
            datasets = tuple(self.workspace.dataset_names())
            runs = tuple(folder.name for folder in self.workspace.run_folders())
            self._files = (time.monotonic(), datasets, runs)
        return datasets, runs

    def files_changed(self) -> None:
        """Look again at the next view."""
        self._files = (-FILES_SECONDS, *self.files())
        self._readiness = (None, Readiness())

    def show_run(self, name: str) -> None:
        """The run that the Train tab shows; empty: set up a new one."""
        self._focus_run = name

    def result(self, kind: str, **what: Any) -> None:
        """What a job of this kind made; pages show it until the next one."""
        with self._lock:
            number = self.results.get(kind, Result()).number + 1
            self.results = {**self.results, kind: Result(number, **what)}

    def forget_result(self, kind: str) -> None:
        """Another try begins: if it fails, no page says that it went well."""
        with self._lock:
            self.results = {name: result for name, result in self.results.items() if name != kind}

    def view(self) -> View:
        """The present state of everything."""
        with self._lock:
            snapshot = self.runner.snapshot
            if snapshot.kind == "train":
                if snapshot.outcome and (self._training is None or self._training.version != snapshot.version):
                    self.files_changed()
                self._training = snapshot
            elif self._training is not None and self._training.alive:
                self._training = None  # its end was not seen; its files tell
            datasets, runs = self.files()
            shown = self._shown_run(runs)
            training = self._training
            if training is not None and (not training.run_folder or training.run_folder.name != shown):
                training = training if training.alive or not shown else None
            history, facts = self._look_back(shown, training)
            busy = snapshot.title if snapshot.alive and snapshot.kind != "train" else ""
            return View(
                snapshot=snapshot,
                datasets=datasets,
                runs=runs,
                shown_run=shown,
                history=history,
                train=train_view(training, facts, self.readiness() if not shown else Readiness(), busy),
                problem=self.current_problem(snapshot),
                draft=self.draft,
                focus_dataset=self.focus_dataset,
                results=self.results,
                card_hidden=self.card_hidden,
                unfinished=self.unfinished,
                closing=self.ending.asked,
            )

    def _shown_run(self, runs: tuple[str, ...]) -> str:
        training = self._training
        if training is not None and training.alive:
            return training.run_folder.name if training.run_folder else ""
        if self._focus_run is None:
            if training is not None and training.run_folder is not None:
                return training.run_folder.name
            return runs[0] if runs else ""
        return self._focus_run if self._focus_run in runs else ""

    def _look_back(self, shown: str, training: JobSnapshot | None) -> tuple[JobSnapshot, RunFacts | None]:
        if training is not None and training.alive:
            return training, None
        if not shown:
            return JobSnapshot(), None
        key = (shown, training.version if training else 0)
        if self._history[0] != key:
            self._history = (key, *read_run(self.workspace.runs / shown))
        return self._history[1], self._history[2]

    # -- training and trying ------------------------------------------------------------------------------------------

    def training_began(self) -> None:
        """A run was started or resumed: pages show it, and old problems are of no interest."""
        self._focus_run, self.unfinished = None, ()
        self.forget_problem()
        self.files_changed()

    def try_session(self) -> Any:
        """The one holder of a loaded pipeline for Try it (call in a job's thread: torch is loaded here)."""
        from engine.inference.session import TrySession

        if self._try is None:
            self._try = TrySession(self.workspace)
        return self._try

    def free_try_session(self) -> None:
        """Give the memory of Try it, and of models that previews of maps have loaded, to a training run."""
        weights.free()
        if self._try is not None:
            self._try.free()

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def start_job(self, kind: str, title: str, work: Callable[..., Any]) -> None:
        """Start a job of the window's own; an old problem is no longer of interest.

        Raises:
            Busy: another job is running.
        """
        self.runner.start(kind, title, self._watched(work))
        self.forget_problem()

    def _watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(token: Any, emit: Any) -> Any:
            try:
                return work(token, emit)
            finally:
                self.files_changed()

        return run

    def discard_run(self, name: str) -> Path:
        """Set a run aside: its folder moves to workspace/discarded, nothing is deleted."""
        target = self.workspace.root / "discarded" / f"{name}-{time.strftime('%H%M%S')}"
        target.parent.mkdir(exist_ok=True)
        (self.workspace.runs / name).rename(target)
        self._focus_run, self._training = "", None
        self.unfinished = tuple(run for run in self.unfinished if run.folder != name)
        self.files_changed()
        return target


def with_focus(context: AppContext, dataset: str) -> None:
    """A dataset that was just made or chosen: every tab shows it, and the next run uses it."""
    context.focus_dataset = dataset
    changes = dict(context.draft.changes)
    changes["data"] = {**changes.get("data", {}), "dataset": dataset}
    context.draft = replace(context.draft, changes=changes, number=context.draft.number + 1)
