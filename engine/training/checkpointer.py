"""Writes checkpoints. Training pauses only while the files are written to the system's file cache.

The training thread writes them, since no weight may change meanwhile. Then it continues, while another thread computes
their checksums, flushes them to the disk and renames the folder. At most one checkpoint is in that state (pending).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine.disk.in_use import is_in_use
from engine.disk.retry import Unsaved, reason_of
from engine.errors import UserError
from engine.jobs.events import CheckpointSaved, Message, PhaseChanged
from engine.machine.memory import trim_heap
from engine.machine.units import counted
from engine.runs.checkpoints import Checkpoint, list_checkpoints
from engine.runs.cleanup import name_others, prune, trim
from engine.training.checkpoint import lacks_only_its_name, stage_checkpoint
from engine.training.oom import retry_once
from engine.training.state import TrainState
from engine.tuning.facts import facts_of
from engine.workspace.merged_bases import read_recipe


class Checkpointer:
    """Writes the checkpoints of one run. Does nothing except on the main process.

    Args:
        best: returns the step of the best checkpoint so far, which is kept; None if there is none.
        after: called when a checkpoint is on the disk and old ones are removed.
        before: called before one is written, which says which steps were skipped.
    """

    def __init__(
        self,
        state: TrainState,
        best: Callable[[], int | None],
        after: Callable[[], None],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._state, self._best, self._after, self._before = state, best, after, before
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._step = 0
        self._pending: Future[Checkpoint] | None = None

    def save_if_due(self) -> None:
        """Between two steps: begin a checkpoint if one is due or requested; else report a pending one that is flushed.

        Raises:
            as ``begin``.
        """
        state, train = self._state, self._state.config.train
        last = state.step == train.steps
        if state.token.take_save_request() or (state.step % train.checkpoint_every == 0 and not last):
            self.begin()
        else:
            self._check_pending()

    def begin(self) -> None:
        """Write the files of a checkpoint of this step. It is reported when it is flushed to the disk.

        Raises:
            Unsaved: the disk cannot take it and the user did not want to wait. UserError: a weight is NaN or infinite.
        """
        state = self._state
        if not state.is_main or state.step == 0:
            return
        self._before()
        if not self.wait():
            self._save_and_wait()
            return
        finish_writing = self._retry(self._stage)
        self._step = state.step
        self._pending = self._thread.submit(self._to_disk, finish_writing, self._step, waits=False)
        state.emit(PhaseChanged("running"))

    def save(self) -> Checkpoint | None:
        """Write a checkpoint of this step and flush it to the disk. The run waits while the disk cannot take it.

        Raises:
            as ``begin``.
        """
        if not self._state.is_main or self._state.step == 0:
            return None
        self._before()
        self.wait()
        return self._save_and_wait()

    def wait(self) -> bool:
        """Wait for the pending checkpoint, if any; False if it was lost. One that only lacks its name is not."""
        pending, self._pending = self._pending, None
        if pending is None:
            return True
        state = self._state
        if not pending.done():
            state.emit(PhaseChanged("saving"))
        try:
            with state.watchdog.watch(f"Waiting for the checkpoint of step {self._step:,}"):
                checkpoint = pending.result()
        except OSError as error:
            cause = reason_of(error, state.run_folder)
            if is_in_use(error) and lacks_only_its_name(state.run_folder, self._step):
                words = f"The checkpoint of step {self._step:,} was written but could not be renamed. {cause}"
                state.emit(
                    Message(f"{words} It is renamed when the next one is saved or the run is resumed.", "warning")
                )
                return True
            words = f"The checkpoint of step {self._step:,} could not be written to the disk. {cause}"
            state.emit(Message(f"{words} Training has continued; a later step is saved instead.", "warning"))
            return False
        self._report(checkpoint)
        return True

    def close(self) -> None:
        """Wait for the pending checkpoint, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _check_pending(self) -> None:
        """Report the pending checkpoint if it is flushed. If it was lost, save this step in its place."""
        if self._pending is not None and self._pending.done() and not self.wait():
            self._before()
            self._save_and_wait()

    def _save_and_wait(self) -> Checkpoint:
        checkpoint = self._retry(lambda: self._to_disk(self._stage(), self._state.step))
        self._report(checkpoint)
        self._state.emit(PhaseChanged("running"))
        return checkpoint

    def _retry(self, action: Callable[[], Any]) -> Any:
        return self._state.retry.until_done(f"The checkpoint of step {self._state.step:,}", action, self._give_up)

    def _stage(self) -> Callable[[], Checkpoint]:
        state = self._state
        state.emit(PhaseChanged("saving"))  # set again on every retry, so the page stops showing "waiting for the disk"
        about: dict[str, Any] = {**state.about, "base": state.config.model.base, "family": state.family.name}
        if merged := read_recipe(Path(state.base)).get("ingredients"):
            about["ingredients"] = [{**one, "file": Path(one["file"]).name} for one in merged]
        if (train := state.config.train).base_storage != "same":
            about["base_storage"] = {"kind": train.base_storage, "modulation": train.modulation_storage}
        about["optimizer"] = state.config.optim.optimizer
        about["trained"] = facts_of(state.config).trains
        about["noise_schedule"] = state.noise_process.schedule
        about |= state.trainable.description(state.precision)
        state.parallel.gather_full_weights(with_optimizer=True)
        what = f"checkpoint of step {state.step:,}"
        with state.watchdog.watch(f"Writing the {what}"):
            return retry_once(
                state,
                what,
                lambda: stage_checkpoint(
                    state.run_folder,
                    state.step,
                    state.step * state.images_per_step,
                    state.trainable,
                    state.ema,
                    state.parallel.full_optimizer,
                    state.loss_scale.state_dict(),
                    about,
                ),
            )

    def _to_disk(self, finish_writing: Callable[[], Checkpoint], step: int, waits: bool = True) -> Checkpoint:
        with self._state.watchdog.watch(f"Writing the checkpoint of step {step:,} to the disk", waits=waits):
            checkpoint = finish_writing()
            name_others(self._state.run_folder)
            return checkpoint

    def _report(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is on the disk: remove old ones, and report it."""
        self._remove_old()
        trim_heap()
        kept = tuple(saved.step for saved in list_checkpoints(self._state.run_folder))
        self._state.emit(CheckpointSaved(checkpoint.step, checkpoint.folder, kept))
        self._after()

    def _give_up(self, problem: UserError) -> Any:
        state = self._state
        if lacks_only_its_name(state.run_folder, state.step):
            raise Unsaved(
                f"The checkpoint of step {state.step:,} was written but could not be renamed.",
                problem.why,
                "Close the program that has one of its files open, and resume: the checkpoint is then renamed.",
            )
        saved = list_checkpoints(state.run_folder)
        last = saved[-1].step if saved else 0
        where = f"the checkpoint of step {last:,}" if last else "the beginning"
        raise Unsaved(
            f"The run stopped at step {state.step:,}, which could not be saved.",
            problem.why,
            f"Free some space and resume: it continues from {where} and repeats {counted(state.step - last, 'step')}.",
        )

    def _remove_old(self) -> None:
        """Remove old checkpoints. If one cannot be removed, the run continues."""
        state, train = self._state, self._state.config.train
        best = self._best()
        try:
            with state.watchdog.watch("Removing old checkpoints"):
                prune(state.run_folder, train.keep_checkpoints, best, train.keep_every)
                if train.keep_resumable:
                    trim(state.run_folder, train.keep_resumable)
        except OSError as error:
            state.emit(Message(f"An old checkpoint could not be removed: {error.strerror or error}.", "warning"))
