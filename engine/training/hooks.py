"""What a run owes its owner between two steps: checkpoints, checks, images. All in training's own thread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.disk.retry import Patience
from engine.disk.space import free_bytes, require_space
from engine.disk.watchdog import SlowDisk
from engine.errors import DataGone
from engine.jobs.control import Cancelled
from engine.jobs.events import DiskSeen, Message, PhaseChanged
from engine.machine.memory import trim_heap
from engine.machine.units import format_bytes
from engine.runs.retention import size_of
from engine.runs.run import read_preview
from engine.training import lending
from engine.training.checkpoint import bytes_needed
from engine.training.checkpointer import Saving

if TYPE_CHECKING:
    from engine.errors import UserError
    from engine.training.batches import Batch
    from engine.training.trainer import Trainer

IMAGE_MARGIN = 16 * 2**20
ASKED = ".asked"


class Promises:
    """Keeps them. ``close`` when the run ends."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.patience = Patience(trainer.run_folder, trainer.token, trainer.emit)
        self.slow = SlowDisk(trainer.emit)
        self.saving = Saving(trainer, self.patience, self.slow, self._look_at_disk)
        self._next_checkpoint = 0

    def begin(self) -> None:
        """What is due before the next step: of a new run its first images, else what a crash or a pause left out."""
        trainer = self._trainer
        self._look_at_disk()
        if all(check.step != trainer.step for check in trainer.heard.checks):
            trainer.checks.make_if_due(always=trainer.step == 0)
        asked = self._asked.exists()
        if asked or (self._images_due() and not self._drawn()):
            self.images(asked)

    def keep(self) -> None:
        """Checkpoints, checks and images that are due after this step, or were asked for."""
        trainer, train = self._trainer, self._trainer.config.train
        last = trainer.step == train.steps
        if trainer.token.take_save_request() or (trainer.step % train.checkpoint_every == 0 and not last):
            self.saving.begin()
        else:
            self.saving.look()
        trainer.checks.make_if_due(always=last)
        asked = trainer.token.take_preview_request()
        if asked or self._images_due():
            self.images(asked)
        lending.serve(trainer)

    def batch(self, number: int) -> Batch:
        """Batch ``number`` of this process; where the disk does not answer, the run waits for it in mid-step.

        Raises:
            DataGone: a file of the dataset is gone, or the owner did not want to wait.
        """

        def read() -> Batch:
            with self.slow.watching("Reading the next images"):
                return self._trainer.batches.get(number)

        def give_up(problem: UserError) -> Batch:
            raise DataGone("The next images could not be read.", problem.why, problem.try_this)

        return self.patience.until_done(f"Step {self._trainer.step + 1:,}", read, give_up)

    def _images_due(self) -> bool:
        config = self._trainer.config
        every, step = config.validation.every, self._trainer.step
        return bool(every) and (step % every == 0 or step == config.train.steps)

    @property
    def _asked(self) -> Path:
        """There while images are owed: somebody asked for them, and a pause came before they were made."""
        return self._trainer.run_folder / "previews" / ASKED

    def _owe(self, owed: bool) -> None:
        """Remember beyond this sitting that images were asked for, or that they are made."""
        try:
            if owed:
                self._asked.parent.mkdir(exist_ok=True)
                self._asked.touch()
            else:
                self._asked.unlink(missing_ok=True)
        except OSError as error:
            words = f"A note of the images that you asked for could not be changed: {error.strerror or error}."
            self._trainer.emit(Message(words, "warning"))

    def _drawn(self) -> bool:
        """The images of this step are there, and their scores noted."""
        step = self._trainer.step
        folder = self._trainer.run_folder / "previews" / f"step-{step:06d}"
        return any(noted == step for noted, _ in self._trainer.heard.scores) and read_preview(folder) is not None

    def images(self, asked: bool = False) -> None:
        """Draw and score the held-out pairs (main process only); ``asked`` for, they outlive a pause."""
        trainer = self._trainer
        if trainer.preview is None or not trainer.accelerator.is_main_process:
            return
        trainer.emit(PhaseChanged("validating"))
        settings, side = trainer.config.validation, trainer.config.data.resolution
        needed = settings.pictures * 4 * side * side + IMAGE_MARGIN  # the image, and a row of three
        what = f"The set of images of step {trainer.step:,}"

        def room() -> bool:
            with self.slow.watching("Looking for room on the disk"):
                trainer.run_folder.stat()  # where its disk is gone, the place is another disk's
                require_space(trainer.run_folder, needed, what)
            return True

        if self.patience.until_done(what, room, lambda problem: False):
            trainer.preview(trainer, trainer.step)
        if asked:
            self._owe(trainer.token.stop is not None and not self._drawn())
        trim_heap()
        trainer.emit(PhaseChanged("running"))

    def _look_at_disk(self) -> None:
        """Tell how much room there is, and warn ahead of a checkpoint that will not fit."""
        trainer = self._trainer
        if not trainer.accelerator.is_main_process:
            return
        if not self._next_checkpoint:
            nets = [(trainer.controlnet, trainer.ema is not None), (trainer.decoder, False)]
            self._next_checkpoint = sum(bytes_needed(net, ema) for net, ema in nets if net is not None)
        try:
            with self.slow.watching("Looking for room on the disk"):
                seen = DiskSeen(free_bytes(trainer.run_folder), size_of(trainer.run_folder), self._next_checkpoint)
        except OSError:
            return  # whoever writes next says what is wrong with the disk
        trainer.emit(seen)
        if seen.free < seen.next_checkpoint:
            words = (
                f"The disk has {format_bytes(seen.free)} left and the next checkpoint needs up to "
                f"{format_bytes(seen.next_checkpoint)}: free some space, or the run will wait there."
            )
            trainer.emit(Message(words, "warning"))

    def build_cache(self, build: Any) -> Any:
        """``build()``, waiting for room where it lacks; parts that are finished are kept meanwhile.

        Several processes do not wait: what one of them began anew would find the others elsewhere.
        """
        if self._trainer.processes.count > 1:
            return build()

        def stop(problem: UserError) -> Any:
            raise Cancelled

        return self.patience.until_done("The cache of images and captions", build, stop)

    def close(self) -> None:
        self.saving.close()
        self.slow.close()
