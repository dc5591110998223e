"""What every tab is given: the workspace, the job runner, and the state that all pages share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.conditions import places, weights
from engine.disk.in_use import rename
from engine.errors import UserError
from engine.jobs.runner import Busy, JobRunner
from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.queue.job import QueuedJob
from engine.queue.run_jobs import Resume, Train
from engine.training.job import resume_training, start_training
from engine.workspace.paths import Workspace
from ui.page.dataset_checks import DatasetChecks
from ui.page.guide.state import Guide
from ui.page.next_run import NextRun
from ui.page.problems import Problems
from ui.page.queueing import DOUBLE_CLICK_SECONDS, Queueing
from ui.page.shown_run import find_unfinished, open_runs, read_run
from ui.page.states import Readiness, RunFacts, train_view
from ui.page.view import Draft, Result, View
from ui.server.shutdown import Shutdown


class AppContext(Problems, DatasetChecks, Queueing):
    """The state of the app. There is one per process. Methods may be called from any thread."""

    def __init__(self, workspace: Workspace, runner: JobRunner | None = None, local: bool = True) -> None:
        Problems.__init__(self, runner or JobRunner())
        self.focus_dataset = next(iter(workspace.dataset_names()), "")
        """The dataset that every tab shows first."""
        NextRun.__init__(self, workspace, self.focus_dataset)
        places.use(workspace)
        self.local = local
        """The browser runs on this machine, so that folder dialogs can open here."""
        runs = open_runs(workspace)
        self.guide = Guide(workspace, self.listing, runs)
        self.unfinished = find_unfinished(runs)
        """Runs of earlier sessions, offered until one is trained."""
        self.shutdown = Shutdown()
        self.results: dict[str, Result] = {}
        DatasetChecks.__init__(self, lambda: self.runner.alive)
        self._try: Any = None
        self._chosen_run: str | None = None  # None: show the newest
        self._training: JobSnapshot | None = None
        self._starting = threading.Lock()
        self._started: tuple[float, Any] = (0.0, None)
        self._history: tuple[Any, JobSnapshot, RunFacts | None] = (None, JobSnapshot(), None)
        Queueing.__init__(self, workspace, self.runner, self.shutdown)

    # -- what the pages show ------------------------------------------------------------------------------------------

    def files(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the datasets and of the runs (newest first), read every two seconds at most."""
        return self.listing.names()

    def files_changed(self) -> None:
        """Read the folders again for the next view."""
        self.listing.changed()
        self._readiness = (None, Readiness())

    def focus_on(self, dataset: str) -> None:
        """Show a dataset that was just made or chosen on every tab, and use it for the next run."""
        self.focus_dataset = dataset

        def choose(draft: Draft) -> Draft:
            data = {**draft.changes.get("data", {}), "dataset": dataset}
            return replace(draft, changes={**draft.changes, "data": data}, number=draft.number + 1)

        self.edit_draft(choose)

    def show_run(self, name: str) -> None:
        """Show a run on the Train tab. An empty name shows the form for a new one.

        If it is the run that is training, the page moves on to the next run that the queue trains.
        """
        snapshot = self.runner.snapshot
        live = snapshot.run_folder.name if snapshot.is_training and snapshot.run_folder else None
        self._chosen_run = None if name == live else name
        self._started = (0.0, None)  # a Start on the form that was just asked for is no double click

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
                self._training = None  # it ended unseen; the files say how
            datasets, runs = self.listing.names()
            shown = self._shown_run(runs)
            training = self._training
            if training is not None and (not training.run_folder or training.run_folder.name != shown):
                preparing = training.alive and self._chosen_run is None
                training = training if preparing or (not training.alive and not shown) else None
            history, facts = self._history_of(shown, training)
            busy = snapshot.title if snapshot.alive and (training is None or not training.alive) else ""
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
                guide=self.guide.look(datasets, self._dataset_of_draft(), self.base_of(self.draft), shown),
                unfinished=self.unfinished,
                start_pressed=self._asked == self.draft,
                auto_check=self.auto_check.state,
                queue=self.queue_view(),
                closing=self.shutdown.requested,
            )

    def _dataset_of_draft(self) -> str:
        return str(self.draft.changes.get("data", {}).get("dataset") or "")

    def _shown_run(self, runs: tuple[str, ...]) -> str:
        training = self._training
        if self._chosen_run is None:
            if training is not None and (training.run_folder is not None or training.alive):
                return training.run_folder.name if training.run_folder else ""
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

    def start_job(self, kind: str, title: str, work: Callable[..., Any], queued: QueuedJob | None = None) -> None:
        """Start a job other than training, and close the panel of an earlier problem.

        Args:
            queued: the same job for the queue, to which it is added if another one is running.

        Raises:
            Busy: another job is running, and this one cannot be queued.
        """
        try:
            if queued is not None and self.must_queue:
                self.add_to_queue(queued)
            else:
                self.runner.start(kind, title, self._with_new_listing(work))
        except Busy:  # the queue has begun its next job just now
            if queued is None:
                raise
            self.add_to_queue(queued)
        self.clear_problem()

    def _with_new_listing(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(token: Any, emit: Any) -> Any:
            try:
                return work(token, emit)
            finally:
                self.files_changed()

        return run

    def start_training(self) -> None:
        """Start the run that the draft describes, or add it to the queue. The second of two presses is ignored.

        Raises:
            UserError: a setting is out of bounds, or something is missing.
        """
        with self._first_press("start", self.draft.preset, self.draft.changes) as first:
            if first and self.must_queue:
                config, origins = self.config_of(self.draft)
                self.add_to_queue(Train(config=config.model_dump(mode="json"), origins=origins))
            elif first:
                self.free_models()
                start_training(self.runner, self.workspace, *self.config_of(self.draft))
                self.training_started()

    def resume_training(
        self, name: str, changes: Mapping[str, Any] | None = None, from_step: int | None = None
    ) -> None:
        """Resume a run by its folder name, or add that to the queue. The second of two presses is ignored.

        For other settings and an earlier step see ``engine.training.job.change_run``.

        Raises:
            UserError: the run cannot be resumed so.
        """
        with self._first_press("resume", name, dict(changes or {}), from_step) as first:
            if first and self.must_queue:
                self.add_to_queue(Resume(run=name, changes=dict(changes or {}), from_step=from_step))
            elif first:
                self.free_models()
                resume_training(self.runner, self.workspace, self.workspace.run_folder(name), changes, from_step)
                self.training_started()

    @contextmanager
    def _first_press(self, *what: Any) -> Iterator[bool]:
        """Yield whether this is the first press of a double click, so that the second one starts nothing.

        A double click sends two, and the page cannot hide the button in between. One waits here for the other.
        """
        with self._starting:
            snapshot, now = self.runner.snapshot, time.monotonic()
            running = snapshot.alive and snapshot.kind == JobKind.TRAIN
            started_at, started = self._started
            again = running and started == what and now - started_at < DOUBLE_CLICK_SECONDS
            yield not again
            self._started = (time.monotonic(), what)

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
                "Close programs that have one of its files open, such as TensorBoard, and try again.",
            ) from error
        self._chosen_run, self._training = "", None
        self.unfinished = tuple(run for run in self.unfinished if run.folder != name)
        self.files_changed()
        return target
