"""Runs the queue in the background of the window: one entry after the other, whenever no other job is running."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from engine.errors import UserError
from engine.jobs.control import Cancelled, Token
from engine.jobs.runner import Busy, Emit, JobRunner
from engine.jobs.snapshot import Outcome
from engine.queue.entries import Entry
from engine.queue.folder import QueueFolder
from engine.queue.job import JobReport, QueuedJob
from engine.queue.kinds import job_of
from engine.queue.perform import perform
from engine.workspace.paths import Workspace

Before = Callable[[QueuedJob], None]
After = Callable[[QueuedJob, JobReport], None]


class QueueLoop:
    """The queue of a workspace that this process has locked. Methods may be called from any thread.

    It continues after a job that failed, was stopped or was cancelled, and holds after one that was paused: the user
    wants the machine. What an earlier session has left over waits until ``go_on``.

    Args:
        before: called in the loop's thread before an entry's job starts, for example to free memory.
        after: called in the job's thread when it has ended without an error.
        closing: whether the app is about to end. No further entry is begun then.
        failed: called with an error of the loop itself, such as a disk that is gone. The queue then holds.
    """

    def __init__(
        self,
        workspace: Workspace,
        runner: JobRunner,
        before: Before = lambda job: None,
        after: After = lambda job, report: None,
        closing: Callable[[], bool] = lambda: False,
        failed: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.folder = QueueFolder(workspace)
        self._workspace, self._runner = workspace, runner
        self._before, self._after, self._closing, self._failed = before, after, closing, failed
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.outcomes: tuple[str, ...] = ()
        """How the entries ended since the queue last had nothing to do."""
        self.folder.recover()
        self._held = bool(self.folder.waiting())

    @property
    def held(self) -> bool:
        """Whether the waiting jobs wait for ``go_on``, and not for the job that runs."""
        return self._held

    @property
    def next_is_due(self) -> bool:
        """Whether the next entry starts automatically, now or when the running job ends."""
        return not self._held and bool(self.folder.waiting())

    def add(self, job: QueuedJob) -> Entry:
        """Add a job at the end. It starts automatically when its turn comes.

        Raises:
            UserError: it cannot be written.
        """
        settings = job.model_dump(mode="json")
        entry = self.folder.add(job.kind, job.title, settings, job.expected_seconds(self._workspace))
        self.go_on()
        return entry

    def go_on(self) -> None:
        """Run the waiting jobs, as soon as no job is running."""
        with self._lock:
            self._held = False
            if self._thread is None:
                self.outcomes = ()
                self._thread = threading.Thread(target=self._run, name="queue", daemon=True)
                self._thread.start()

    def begin_added(self) -> None:
        """Run what another process has added meanwhile. Cheap, to be called often."""
        if self._thread is None and self.next_is_due:
            self.go_on()

    def hold(self) -> None:
        """Start no further job until ``go_on``. A running job is not affected."""
        with self._lock:
            self._held = True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until no job is left to start. Returns False on a timeout."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        try:
            while entry := self._next():
                self._begin(entry)
        except Exception as error:  # a disk that is gone, for example; pages show it, and "Run the queue" tries again
            with self._lock:
                self._held, self._thread = True, None
            self._failed(error)

    def _next(self) -> Entry | None:
        """Wait for the job that runs, then take the first entry. None: the thread is to end."""
        while True:
            watched = self._runner.alive
            self._runner.wait()
            with self._lock:  # what is added from here on starts a thread of its own
                if watched and self._runner.snapshot.outcome == "paused":
                    self._held = True
                if self._held or self._closing() or not self.folder.waiting():
                    self._thread = None
                    return None
            if (entry := self.folder.take()) is not None:
                return entry

    def _begin(self, entry: Entry) -> None:
        """Start the entry's job. If the user has started another one meanwhile, the entry runs after that."""

        def work(token: Token, emit: Emit) -> Outcome:
            outcome: str = "failed"
            try:
                report = perform(self._workspace, self.folder, entry, token, emit, self._closing)
                outcome = report.outcome
            except Cancelled:
                outcome = "cancelled"
                if token.stop_requested == "pause":  # it waits again, and must not begin at once
                    self.hold()
                raise
            finally:
                self.outcomes = (*self.outcomes, outcome)
            self._after(job_of(entry), report)
            return report.outcome

        try:
            kind, title, initial = entry.kind, entry.title, None
            with suppress(UserError):  # a damaged entry: the job itself says so, and fails
                job = job_of(entry)
                kind, title, initial = job.job_kind, job.title, job.begun(self._workspace, entry.id)
                self._before(job)
            self._runner.start(kind, title, work, initial=initial)
        except Busy:
            self.folder.put_back(entry)
        except BaseException:
            self.folder.put_back(entry)
            raise
