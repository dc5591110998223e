"""What every tab is given: the workspace, the job runner, and the state that all pages share."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.conditions import places, weights
from engine.config import RunConfig
from engine.config.presets import Preset, all_presets, resolve, suggest
from engine.config.user_presets import UserPresets
from engine.demo.sets import demo_preset
from engine.disk.in_use import rename
from engine.errors import UserError
from engine.families.distilled import usual_settings
from engine.families.files import family_of
from engine.jobs.runner import JobRunner
from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.machine.hardware import Hardware, detect
from engine.training.job import resume_training, start_training
from engine.workspace.paths import Workspace
from ui.page.problems import Problems
from ui.page.readiness import check_readiness, stamp
from ui.page.shown_run import find_unfinished, open_runs, read_run
from ui.page.states import Readiness, RunFacts, train_view
from ui.page.view import Draft, Result, View
from ui.server.shutdown import Shutdown

LISTING_SECONDS = 2.0
"""How long a listing of the workspace's folders is used before it is read again."""


class AppContext(Problems):
    """The state of the app. There is one per process. Methods may be called from any thread."""

    def __init__(self, workspace: Workspace, runner: JobRunner | None = None, local: bool = True) -> None:
        super().__init__(runner or JobRunner())
        self.workspace = workspace
        places.use(workspace)
        self.local = local
        """The browser runs on this machine, so that folder dialogs can open here."""
        self.focus_dataset = next(iter(workspace.dataset_names()), "")
        """The dataset that every tab shows first."""
        self.draft = Draft(changes={"data": {"dataset": self.focus_dataset}} if self.focus_dataset else {})
        runs = open_runs(workspace)
        self.first_start_hidden = any(run.completed for run in runs)
        self.unfinished = find_unfinished(runs)
        """Runs of earlier sessions, offered until one is trained."""
        self.shutdown = Shutdown()
        self.results: dict[str, Result] = {}
        self.libraries_loaded = threading.Event()
        """Until torch is loaded, a page does nothing that needs it."""
        self._lock = threading.RLock()
        self._try: Any = None
        self._chosen_run: str | None = None  # None: show the newest
        self._training: JobSnapshot | None = None
        self._readiness: tuple[Any, Readiness] = (None, Readiness())
        self._stamp: tuple[float, str, Any] = (-LISTING_SECONDS, "", ())
        self._asked: Draft | None = None
        self._starting = threading.Lock()
        self._started: Any = None
        self._history: tuple[Any, JobSnapshot, RunFacts | None] = (None, JobSnapshot(), None)
        self._files: tuple[float, tuple[str, ...], tuple[str, ...]] = (-LISTING_SECONDS, (), ())

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

    # -- the settings of the next run ---------------------------------------------------------------------------------

    def set_draft(self, preset: str, changes: dict[str, Any], refresh_forms: bool = False) -> None:
        """Store the form's values. ``refresh_forms``: the change did not come from the form, so redraw it."""
        with self._lock:
            self.draft = Draft(preset, changes, self.draft.number + refresh_forms)

    def edit_draft(self, edit: Callable[[Draft], Draft]) -> None:
        """Replace the draft by what ``edit`` makes of it, while no one else changes it."""
        with self._lock:
            self.draft = edit(self.draft)

    def config_of(self, draft: Draft) -> tuple[RunConfig, dict[str, str]]:
        """Return the settings of a draft over its preset, and where each value comes from.

        Raises:
            UserError: a value is out of bounds.
        """
        base = self.base_of(draft)
        layers = self.preset_of(draft).layers(family_of(self.workspace, base))
        return resolve(*usual_settings(self.workspace, base), *layers, ("you", draft.changes))

    def base_of(self, draft: Draft) -> str:
        """Return the base model of a draft. A preset's values depend on the family of the base."""
        chosen = draft.changes.get("model", {}).get("base")
        return str(self.preset_of(draft).base() if chosen is None else chosen)

    def readiness(self) -> Readiness:
        """Return whether the draft can start, what it would take, and what speaks against it."""
        key = (self.draft, self.files(), self._dataset_stamp(), self.libraries_loaded.is_set())
        if self._readiness[0] != key:
            found = check_readiness(self.workspace, lambda: self.config_of(self.draft)[0], self.hardware, key[-1])
            self._readiness = (key, found)
        return self._readiness[1]

    def _dataset_stamp(self) -> Any:
        """Return what changes when the draft's dataset is changed, looked at every two seconds at most."""
        name, (read_at, before, found) = str(self.draft.changes.get("data", {}).get("dataset") or ""), self._stamp
        if before != name or time.monotonic() - read_at > LISTING_SECONDS:
            found = stamp(self.workspace.dataset_folder(name)) if name else ()
            self._stamp = (time.monotonic(), name, found)
        return found

    def start_pressed(self) -> None:
        """Ask once more before the draft's run starts, until the draft is changed."""
        self._asked = self.draft

    # -- what the pages show ------------------------------------------------------------------------------------------

    def files(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the datasets and of the runs (newest first), read every two seconds at most."""
        read_at, datasets, runs = self._files
        if time.monotonic() - read_at > LISTING_SECONDS:
            datasets = tuple(self.workspace.dataset_names())
            runs = tuple(folder.name for folder in self.workspace.run_folders())
            self._files = (time.monotonic(), datasets, runs)
        return datasets, runs

    def files_changed(self) -> None:
        """Read the folders again for the next view."""
        self._files = (-LISTING_SECONDS, *self.files())
        self._stamp = (-LISTING_SECONDS, "", ())
        self._readiness = (None, Readiness())

    def focus_on(self, dataset: str) -> None:
        """Show a dataset that was just made or chosen on every tab, and use it for the next run."""
        self.focus_dataset = dataset

        def choose(draft: Draft) -> Draft:
            data = {**draft.changes.get("data", {}), "dataset": dataset}
            return replace(draft, changes={**draft.changes, "data": data}, number=draft.number + 1)

        self.edit_draft(choose)

    def show_run(self, name: str) -> None:
        """Show a run on the Train tab. An empty name shows the form for a new one."""
        self._chosen_run = name

    def set_result(self, kind: str, **what: Any) -> None:
        """Show what a job of this kind has made, until the next one."""
        with self._lock:
            number = self.results.get(kind, Result()).number + 1
            self.results = {**self.results, kind: Result(number, **what)}

    def clear_result(self, kind: str) -> None:
        """Remove a result, so that no page still reports success if the next attempt fails."""
        with self._lock:
            self.results = {name: result for name, result in self.results.items() if name != kind}

    def view(self) -> View:
        """Return the current state of everything."""
        with self._lock:
            snapshot = self.runner.snapshot
            if snapshot.kind == JobKind.TRAIN:
                if snapshot.outcome and (self._training is None or self._training.version != snapshot.version):
                    self.files_changed()
                self._training = snapshot
            elif self._training is not None and self._training.alive:
                self._training = None  # nobody saw its end; the files say how it ended
            datasets, runs = self.files()
            shown = self._shown_run(runs)
            training = self._training
            if training is not None and (not training.run_folder or training.run_folder.name != shown):
                training = training if training.alive or not shown else None
            history, facts = self._history_of(shown, training)
            busy = snapshot.title if snapshot.alive and snapshot.kind != JobKind.TRAIN else ""
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
                first_start_hidden=self.first_start_hidden,
                unfinished=self.unfinished,
                start_pressed=self._asked == self.draft,
                closing=self.shutdown.requested,
            )

    def _shown_run(self, runs: tuple[str, ...]) -> str:
        training = self._training
        if training is not None and training.alive:
            return training.run_folder.name if training.run_folder else ""
        if self._chosen_run is None:
            if training is not None and training.run_folder is not None:
                return training.run_folder.name
            return runs[0] if runs else ""
        return self._chosen_run if self._chosen_run in runs else ""

    def _history_of(self, shown: str, training: JobSnapshot | None) -> tuple[JobSnapshot, RunFacts | None]:
        """Return curves, images and log of the shown run: from the live job, else from its files."""
        if training is not None and training.alive:
            return training, None
        if not shown:
            return JobSnapshot(), None
        key = (shown, training.version if training else 0)
        if self._history[0] != key:
            self._history = (key, *read_run(self.workspace.runs / shown))
        return self._history[1], self._history[2]

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def start_job(self, kind: str, title: str, work: Callable[..., Any]) -> None:
        """Start a job other than training, and close the panel of an earlier problem.

        Raises:
            Busy: another job is running.
        """
        self.runner.start(kind, title, self._with_new_listing(work))
        self.clear_problem()

    def _with_new_listing(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(token: Any, emit: Any) -> Any:
            try:
                return work(token, emit)
            finally:
                self.files_changed()

        return run

    def start_training(self) -> None:
        """Start the run that the draft describes. The second of two presses is ignored.

        Raises:
            UserError: a setting is out of bounds, or something is missing. Busy: another job is running.
        """
        with self._first_press("start", self.draft.preset, self.draft.changes) as first:
            if first:
                self.free_models()
                start_training(self.runner, self.workspace, *self.config_of(self.draft))
                self.training_started()

    def resume_training(
        self, name: str, changes: Mapping[str, Any] | None = None, from_step: int | None = None
    ) -> None:
        """Resume a run by its folder name. Other settings and an earlier step: see ``engine.training.job.change_run``.

        The second of two presses is ignored.

        Raises:
            UserError: the run cannot be resumed so. Busy: another job is running.
        """
        with self._first_press("resume", name, dict(changes or {}), from_step) as first:
            if first:
                self.free_models()
                resume_training(self.runner, self.workspace, self.workspace.run_folder(name), changes, from_step)
                self.training_started()

    @contextmanager
    def _first_press(self, *what: Any) -> Iterator[bool]:
        """Yield whether this is the first press: the training that runs was not started by the same one.

        A double click sends two, and the page cannot hide the button in between. One waits here for the other.
        """
        with self._starting:
            snapshot = self.runner.snapshot
            again = snapshot.alive and snapshot.kind == JobKind.TRAIN and self._started == what
            yield not again
            self._started = what

    def training_started(self) -> None:
        """Show the run that was started or resumed, and close the panel of an earlier problem."""
        self._chosen_run, self.unfinished, self._asked = None, (), None
        self.clear_problem()
        self.files_changed()

    def try_session(self) -> Any:
        """Return the one holder of Try it's loaded pipeline. Call it in the thread of a job: it loads torch."""
        from engine.inference.session import TrySession

        if self._try is None:
            self._try = TrySession(self.workspace)
        return self._try

    def free_models(self) -> None:
        """Free the memory of the models that Try it and the map previews have loaded, for a training run."""
        weights.free()
        if self._try is not None:
            self._try.free()

    def discard_run(self, name: str) -> Path:
        """Move a run's folder to workspace/discarded and return its new place. Nothing is deleted.

        Raises:
            UserError: the system refuses it.
        """
        target = self.workspace.root / "discarded" / f"{name}-{time.strftime('%H%M%S')}"
        target.parent.mkdir(exist_ok=True)
        try:
            rename(self.workspace.runs / name, target)
        except OSError as error:
            raise UserError(
                f"{name} was not moved.",
                f"The system says: {error.strerror or error}.",
                "Close programs that have a file of it open, such as TensorBoard, and try again.",
            ) from error
        self._chosen_run, self._training = "", None
        self.unfinished = tuple(run for run in self.unfinished if run.folder != name)
        self.files_changed()
        return target
