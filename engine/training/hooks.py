"""What follows a step: a list in reading order. Everything here runs in the training thread, between two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.disk.space import folder_bytes, free_bytes, require_space
from engine.jobs.events import DiskSpace, Message, PhaseChanged
from engine.machine.clock import active_time
from engine.machine.memory import trim_heap
from engine.machine.units import format_bytes
from engine.runs.run import read_preview
from engine.training import lending
from engine.training.checkpointer import Checkpointer
from engine.training.loss_checks import LossChecks, Schedule
from engine.training.speed import uncompiled
from engine.training.state import TrainState
from engine.tuning.facts import facts_of

IMAGES_MARGIN_BYTES = 16 * 2**20
REQUESTED = ".asked"

PreviewFunction = Callable[[TrainState, int], None]
"""Draws and scores the previews of a step."""


class Hooks:
    """Runs the periodic tasks of a training run. Call ``close`` when training ends."""

    def __init__(self, state: TrainState, draw: PreviewFunction | None, read_losses: Callable[[], None]) -> None:
        """
        Args:
            draw: draws and scores the previews of a step; None: there are none.
            read_losses: reads those of the steps so far, before a checkpoint.
        """
        self._state = state
        self.loss_checks = LossChecks(state)
        best = self.loss_checks.best_checkpoint
        self.checkpointer = Checkpointer(state, best, self._report_disk, read_losses)
        self.previews = Previews(state, draw)
        self._checkpoint_bytes = 0

    def before_first_step(self) -> None:
        """Run the tasks that are due at the start: a new run's first images, or those that a crash or pause skipped."""
        state = self._state
        self._report_disk()
        with uncompiled(state):
            history = state.history
            if state.step not in (*(c.step for c in history.checks), *(c.step for c in history.base_checks)):
                self.loss_checks.check_if_due(always=state.step == 0)
            self.previews.draw_missing()

    def after_step(self) -> None:
        """Run the tasks that are due after this step, or were asked for."""
        last = self._state.step == self._state.config.train.steps
        with uncompiled(self._state):
            self.checkpointer.save_if_due()
            self.loss_checks.check_if_due(always=last)
            self.previews.draw_if_due()
            lending.lend_models(self._state)

    def close(self) -> None:
        """Wait for the last checkpoint, and end the threads."""
        self.checkpointer.close()
        self._state.watchdog.close()

    def _report_disk(self) -> None:
        """Report the free space, and warn if the next checkpoint will not fit."""
        state = self._state
        if not state.is_main:
            return
        if not self._checkpoint_bytes:
            self._checkpoint_bytes = state.trainable.checkpoint_bytes(state.ema is not None)
        try:
            with state.watchdog.watch("Checking the free disk space"):
                seen = DiskSpace(free_bytes(state.run_folder), folder_bytes(state.run_folder), self._checkpoint_bytes)
        except OSError:
            return  # the next write says what is wrong with the disk
        state.emit(seen)
        if seen.free < seen.next_checkpoint:
            words = (
                f"The disk has {format_bytes(seen.free)} left, and the next checkpoint needs up to "
                f"{format_bytes(seen.next_checkpoint)}: free some space, or the run will have to wait before it "
                "can save."
            )
            state.emit(Message(words, "warning"))


class Previews:
    """Preview images: held-out pairs drawn and scored at an interval, in a share of the time, and when asked for."""

    def __init__(self, state: TrainState, draw: PreviewFunction | None) -> None:
        settings = state.config.validation
        self._state, self._draw = state, draw
        self.schedule = Schedule(settings.every, settings.share_of_previews)

    def draw_missing(self) -> None:
        """At the start: images that are due at this step or were asked for, and are not there yet."""
        requested = self._request_file.exists()
        if requested or (self._due() and not self._drawn()):
            self.draw(requested)

    def draw_if_due(self) -> None:
        """After a step."""
        requested = self._state.token.take_preview_request()
        if requested or self._due():
            self.draw(requested)

    def draw(self, requested: bool = False) -> None:
        """Draw and score the held-out pairs, on main only. A request is remembered if a pause comes before."""
        state = self._state
        if not state.is_main:
            return
        if self._draw is None:
            if requested:
                why = facts_of(state.config).why_not_drawn or "This run has no preview images."
                state.emit(Message(f"No images were drawn. {why}", "warning"))
            return
        state.emit(PhaseChanged("validating"))
        settings, side = state.config.validation, state.config.data.resolution
        needed = settings.pictures * 4 * side * side + IMAGES_MARGIN_BYTES  # the image, and a row of three
        what = f"The set of images of step {state.step:,}"

        def check_space() -> bool:
            with state.watchdog.watch("Checking the free disk space"):
                state.run_folder.stat()  # if its disk is gone, the path is on another disk
                require_space(state.run_folder, needed, what)
            return True

        if state.retry.until_done(what, check_space, lambda problem: False):
            began = active_time()
            self._draw(state, state.step)
            self.schedule.took(began, active_time())
        if requested:
            self._remember(state.token.stop_requested is not None and not self._drawn())
        trim_heap()
        state.emit(PhaseChanged("running"))

    def _due(self) -> bool:
        config, step = self._state.config, self._state.step
        last = bool(config.validation.every) and step == config.train.steps
        return last or self.schedule.due(step, active_time())

    def _drawn(self) -> bool:
        """Whether the images of this step exist, and their scores are recorded."""
        step = self._state.step
        folder = self._state.run_folder / "previews" / f"step-{step:06d}"
        return any(recorded == step for recorded, _ in self._state.history.scores) and read_preview(folder) is not None

    @property
    def _request_file(self) -> Path:
        """Exists while images were asked for, and a pause came before they were drawn."""
        return self._state.run_folder / "previews" / REQUESTED

    def _remember(self, pending: bool) -> None:
        """Remember beyond this session that images were asked for, or that they are drawn."""
        try:
            if pending:
                self._request_file.parent.mkdir(exist_ok=True)
                self._request_file.touch()
            else:
                self._request_file.unlink(missing_ok=True)
        except OSError as error:
            words = f"The request for these images could not be updated on the disk: {error.strerror or error}."
            self._state.emit(Message(words, "warning"))
