"""What a run owes its owner between two steps: checkpoints, checks, pictures. All in training's own thread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import DataGone
from engine.give_back import give_back_memory
from engine.inference import lending
from engine.jobs.control import Cancelled
from engine.jobs.events import CheckpointSaved, DiskSeen, Message, PhaseChanged
from engine.room import demand_room, free_bytes, in_words
from engine.runs import read_preview
from engine.training import ladder
from engine.training.checkpoint import bytes_needed, save_checkpoint
from engine.training.checkpoint_files import Checkpoint, list_checkpoints
from engine.training.patience import Patience, Unsaved
from engine.training.retention import prune, size_of, trim
from engine.training.slow_disk import SlowDisk

if TYPE_CHECKING:
    from engine.errors import UserError
    from engine.training.batches import Batch
    from engine.training.trainer import Trainer

PICTURE_MARGIN = 16 * 2**20
ASKED = ".asked"


class Promises:
    """Keeps them. ``close`` when the run ends."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.patience = Patience(trainer.run_folder, trainer.token, trainer.emit)
        self.slow = SlowDisk(trainer.emit)
        self._next_checkpoint = 0

    def begin(self) -> None:
        """What is due before the next step: of a new run its first pictures, else what a crash or a pause left out."""
        trainer = self._trainer
        self._look_at_disk()
        if all(check.step != trainer.step for check in trainer.heard.checks):
            trainer.checks.make_if_due(always=trainer.step == 0)
        asked = self._asked.exists()
        if asked or (self._pictures_due() and not self._drawn()):
            self.pictures(asked)

    def keep(self) -> None:
        """Checkpoints, checks and pictures that are due after this step, or were asked for."""
        trainer, train = self._trainer, self._trainer.config.train
        last = trainer.step == train.steps
        if trainer.token.take_save_request() or (trainer.step % train.checkpoint_every == 0 and not last):
            self.save()
        trainer.checks.make_if_due(always=last)
        asked = trainer.token.take_preview_request()
        if asked or self._pictures_due():
            self.pictures(asked)
        lending.serve(trainer)

    def batch(self, number: int) -> Batch:
        """Batch ``number`` of this process; where the disk does not answer, the run waits for it in mid-step.

        Raises:
            DataGone: a file of the dataset is gone, or the owner did not want to wait.
        """

        def read() -> Batch:
            with self.slow.watching("Reading the next pictures"):
                return self._trainer.batches.get(number)

        def give_up(problem: UserError) -> Batch:
            raise DataGone("The next pictures could not be read.", problem.why, problem.try_this)

        return self.patience.until_done(f"Step {self._trainer.step + 1:,}", read, give_up)

    def _pictures_due(self) -> bool:
        config = self._trainer.config
        every, step = config.validation.every, self._trainer.step
        return bool(every) and (step % every == 0 or step == config.train.steps)

    @property
    def _asked(self) -> Path:
        """There while pictures are owed: somebody asked for them, and a pause came before they were made."""
        return self._trainer.run_folder / "previews" / ASKED

    def _owe(self, owed: bool) -> None:
        """Remember beyond this sitting that pictures were asked for, or that they are made."""
        try:
            if owed:
                self._asked.parent.mkdir(exist_ok=True)
                self._asked.touch()
            else:
                self._asked.unlink(missing_ok=True)
        except OSError as error:
            words = f"A note of the pictures that you asked for could not be changed: {error.strerror or error}."
            self._trainer.emit(Message(words, "warning"))

    def _drawn(self) -> bool:
        """The pictures of this step are there, and their scores noted."""
        step = self._trainer.step
        folder = self._trainer.run_folder / "previews" / f"step-{step:06d}"
        return any(noted == step for noted, _ in self._trainer.heard.scores) and read_preview(folder) is not None

    def pictures(self, asked: bool = False) -> None:
        """Draw and score the held-out pairs (main process only); ``asked`` for, they outlive a pause."""
        trainer = self._trainer
        if trainer.preview is None or not trainer.accelerator.is_main_process:
            return
        trainer.emit(PhaseChanged("validating"))
        settings, side = trainer.config.validation, trainer.config.data.resolution
        needed = settings.pictures * 4 * side * side + PICTURE_MARGIN  # the picture, and a row of three
        what = f"The set of pictures of step {trainer.step:,}"

        def room() -> bool:
            with self.slow.watching("Looking for room on the disk"):
                trainer.run_folder.stat()  # where its disk is gone, the place is another disk's
                demand_room(trainer.run_folder, needed, what)
            return True

        if self.patience.until_done(what, room, lambda problem: False):
            trainer.preview(trainer, trainer.step)
        if asked:
            self._owe(trainer.token.stop is not None and not self._drawn())
        give_back_memory()
        trainer.emit(PhaseChanged("running"))

    def save(self) -> Checkpoint | None:
        """Write a checkpoint of this step (main process only) and remove those that are too old.

        While the disk cannot take it the run waits, with everything in memory.

        Raises:
            Unsaved: the owner did not want to wait. UserError: the weights are not numbers any more.
        """
        trainer = self._trainer
        if not trainer.accelerator.is_main_process or trainer.step == 0:
            return None
        what = f"The checkpoint of step {trainer.step:,}"
        checkpoint = self.patience.until_done(what, self._write, self._give_up)
        self._tidy()
        give_back_memory()
        kept = tuple(saved.step for saved in list_checkpoints(trainer.run_folder))
        trainer.emit(CheckpointSaved(trainer.step, checkpoint.folder, kept))
        self._look_at_disk()
        trainer.emit(PhaseChanged("running"))
        return checkpoint

    def _write(self) -> Checkpoint:
        trainer, model = self._trainer, self._trainer.config.model
        trainer.emit(PhaseChanged("saving"))  # at each try: whoever looks sees that it is no longer waited
        about: dict[str, Any] = {**trainer.about, "base": model.base, "family": trainer.family.name}
        about["optimizer"] = trainer.config.optim.optimizer
        if model.control_lora_rank:
            about["control_lora"] = {"rank": model.control_lora_rank, "precision": trainer.precision}
        scaling = trainer.loss_scale.state_dict()
        trainer.sharing.bring_home(with_optimizer=True)
        with self.slow.watching(f"Writing the checkpoint of step {trainer.step:,}"):
            return ladder.once_more(
                trainer,
                f"checkpoint of step {trainer.step:,}",
                lambda: save_checkpoint(
                    trainer.run_folder, trainer.step, trainer.step * trainer.images_per_step, trainer.controlnet,
                    trainer.ema, trainer.sharing.whole_optimizer, scaling, about, trainer.decoder,
                ),
            )  # fmt: skip

    def _give_up(self, problem: UserError) -> Checkpoint:
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
            with self.slow.watching("Removing old checkpoints"):
                prune(trainer.run_folder, train.keep_checkpoints, best, train.keep_every)
                if train.keep_resumable:
                    trim(trainer.run_folder, train.keep_resumable)
        except OSError as error:
            trainer.emit(Message(f"An old checkpoint could not be removed: {error.strerror or error}.", "warning"))

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
                f"The disk has {in_words(seen.free)} left and the next checkpoint needs up to "
                f"{in_words(seen.next_checkpoint)}: free some space, or the run will wait there."
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

        return self.patience.until_done("The cache of pictures and captions", build, stop)

    def close(self) -> None:
        self.slow.close()
