"""Checkpoints, written while training goes on: it waits for their files, and not until the disk has them.

The files are written in training's own thread, into the system's cache of files, as nothing may move meanwhile. Their
checksums, and the disk that takes them, are waited for by another thread. There is one checkpoint on its way at most.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from engine.disk.retry import Patience, Unsaved, describe_cause
from engine.disk.watchdog import SlowDisk
from engine.jobs.events import CheckpointSaved, Message, PhaseChanged
from engine.machine.memory import trim_heap
from engine.runs.checkpoints import Checkpoint, list_checkpoints
from engine.runs.retention import prune, trim
from engine.training import oom
from engine.training.checkpoint import stage_checkpoint

if TYPE_CHECKING:
    from engine.errors import UserError
    from engine.training.trainer import Trainer


class Saving:
    """Of one run. All is done on the main process; elsewhere these calls do nothing.

    Args:
        after: called once a checkpoint is on the disk and the old ones are gone.
    """

    def __init__(self, trainer: Trainer, patience: Patience, slow: SlowDisk, after: Callable[[], None]) -> None:
        self._trainer, self._patience, self._slow, self._after = trainer, patience, slow, after
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._step = 0
        self._on_its_way: Future[Checkpoint] | None = None

    def begin(self) -> None:
        """Write the files of a checkpoint of this step; ``look`` tells of it when the disk has it.

        Raises:
            Unsaved: the disk cannot take it and the owner did not want to wait. UserError: the weights are not numbers
            any more.
        """
        trainer = self._trainer
        if not trainer.accelerator.is_main_process or trainer.step == 0:
            return
        if not self.settle():
            self._write_through()
            return
        finish = self._until_done(self._stage)
        self._step = trainer.step
        self._on_its_way = self._thread.submit(self._to_disk, finish, self._step, waits=False)
        trainer.emit(PhaseChanged("running"))

    def look(self) -> None:
        """Tell of a checkpoint that the disk has by now. Where it did not take it, this step is saved in its place.

        Raises:
            as ``begin``.
        """
        if self._on_its_way is not None and self._on_its_way.done() and not self.settle():
            self._write_through()

    def now(self) -> Checkpoint | None:
        """A checkpoint of this step, on the disk when this returns. While the disk cannot take it the run waits.

        Raises:
            as ``begin``.
        """
        if not self._trainer.accelerator.is_main_process or self._trainer.step == 0:
            return None
        self.settle()
        return self._write_through()

    def settle(self) -> bool:
        """Wait for the checkpoint that is on its way, if any; False where it was lost."""
        on_its_way, self._on_its_way = self._on_its_way, None
        if on_its_way is None:
            return True
        if not on_its_way.done():
            self._trainer.emit(PhaseChanged("saving"))
        try:
            with self._slow.watching(f"Waiting for the checkpoint of step {self._step:,}"):
                checkpoint = on_its_way.result()
        except OSError as error:
            cause = describe_cause(error, self._trainer.run_folder)
            words = f"The checkpoint of step {self._step:,} did not reach the disk. {cause}"
            self._trainer.emit(Message(f"{words} Training has gone on; a later step is saved in its place.", "warning"))
            return False
        self._has(checkpoint)
        return True

    def close(self) -> None:
        """Nothing that is on its way is given up."""
        try:
            self.settle()
        finally:
            self._thread.shutdown()

    def _write_through(self) -> Checkpoint:
        checkpoint = self._until_done(lambda: self._to_disk(self._stage(), self._trainer.step))
        self._has(checkpoint)
        self._trainer.emit(PhaseChanged("running"))
        return checkpoint

    def _until_done(self, action: Callable[[], Any]) -> Any:
        what = f"The checkpoint of step {self._trainer.step:,}"
        return self._patience.until_done(what, action, self._give_up)

    def _stage(self) -> Callable[[], Checkpoint]:
        trainer, model = self._trainer, self._trainer.config.model
        trainer.emit(PhaseChanged("saving"))  # at each try: whoever looks sees that it is no longer waited
        about: dict[str, Any] = {**trainer.about, "base": model.base, "family": trainer.family.name}
        about["optimizer"] = trainer.config.optim.optimizer
        if model.control_lora_rank:
            about["control_lora"] = {"rank": model.control_lora_rank, "precision": trainer.precision}
        scaling = trainer.loss_scale.state_dict()
        trainer.sharing.bring_home(with_optimizer=True)
        with self._slow.watching(f"Writing the checkpoint of step {trainer.step:,}"):
            return oom.once_more(
                trainer,
                f"checkpoint of step {trainer.step:,}",
                lambda: stage_checkpoint(
                    trainer.run_folder, trainer.step, trainer.step * trainer.images_per_step, trainer.controlnet,
                    trainer.ema, trainer.sharing.whole_optimizer, scaling, about, trainer.decoder,
                ),
            )  # fmt: skip

    def _to_disk(self, finish: Callable[[], Checkpoint], step: int, waits: bool = True) -> Checkpoint:
        with self._slow.watching(f"Bringing the checkpoint of step {step:,} to the disk", waits=waits):
            return finish()

    def _has(self, checkpoint: Checkpoint) -> None:
        """The disk has it: remove those that are too old, and tell."""
        self._tidy()
        trim_heap()
        kept = tuple(saved.step for saved in list_checkpoints(self._trainer.run_folder))
        self._trainer.emit(CheckpointSaved(checkpoint.step, checkpoint.folder, kept))
        self._after()

    def _give_up(self, problem: UserError) -> Any:
        trainer = self._trainer
        saved = list_checkpoints(trainer.run_folder)
        last = saved[-1].step if saved else 0
        where = f"the checkpoint of step {last:,}" if last else "the beginning"
        raise Unsaved(
            f"The run was ended at step {trainer.step:,}, which could not be saved.",
            problem.why,
            f"Free some space and resume: it goes on from {where} and does the {trainer.step - last:,} steps again.",
        )

    def _tidy(self) -> None:
        """Remove what is too old. A disk that does not let go of it is no reason to stop."""
        trainer, train = self._trainer, self._trainer.config.train
        best = trainer.checks.verdict([saved.step for saved in list_checkpoints(trainer.run_folder)]).best
        try:
            with self._slow.watching("Removing old checkpoints"):
                prune(trainer.run_folder, train.keep_checkpoints, best, train.keep_every)
                if train.keep_resumable:
                    trim(trainer.run_folder, train.keep_resumable)
        except OSError as error:
            trainer.emit(Message(f"An old checkpoint could not be removed: {error.strerror or error}.", "warning"))
