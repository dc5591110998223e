"""Pictures and scores of a run in progress, drawn with the weights that are in memory."""

from __future__ import annotations

import traceback
from contextlib import nullcontext
from typing import TYPE_CHECKING

from engine.evaluation.validate import make_previews
from engine.jobs.control import Cancelled
from engine.jobs.events import Message, PreviewMade, Progress
from engine.jobs.faults import device_lost
from engine.runs import PreviewRecord
from engine.training import ladder
from engine.training.ema import averaged_weights

if TYPE_CHECKING:
    from engine.training.trainer import Trainer


def preview_during_training(trainer: Trainer, step: int) -> None:
    """Draw and score the held-out pairs with the weights that an export would have (the average, where there is one).

    A fault here never ends the training: it is told in the log.
    """
    try:
        record = _draw(trainer, step)
        if record is None:  # out of memory: from now on one picture at a time
            ladder.clear(trainer)
            trainer.pictures_at_once = 1
            words = f"Memory ran out for the pictures of step {step:,}; from now on they are drawn one at a time."
            trainer.emit(Message(words, "warning"))
            record = _draw(trainer, step)
        if record is None:
            raise MemoryError("memory ran out even for one picture at a time")
    except Cancelled:
        if trainer.token.stop is None:
            raise
        return  # a pause does not wait for pictures: the loop saves and ends
    except Exception as error:
        if device_lost(error):
            raise  # nothing will work any more: the run ends with words of its own
        detail = traceback.format_exc(limit=-2).replace("\n", " ")[:400]
        trainer.emit(Message(f"The pictures of step {step:,} could not be made: {error} ({detail})", "warning"))
        return
    trainer.emit(PreviewMade(record.step, record.folder, record.pictures, record.captions, record.scores))


def _draw(trainer: Trainer, step: int) -> PreviewRecord | None:
    """The pictures, or None where memory ran out."""
    using_average = averaged_weights(trainer.ema, trainer.controlnet) if trainer.ema is not None else nullcontext()
    try:
        with using_average:
            return make_previews(
                family=trainer.family,
                base=trainer.base,
                unet=trainer.unet,
                controlnet=trainer.controlnet,
                samples=trainer.held_out,
                dataset=trainer.dataset,
                settings=trainer.config.validation,
                plan=trainer.plan,
                out_folder=trainer.run_folder / "previews",
                step=step,
                seed=trainer.config.train.seed,
                encode=trainer.cache.text,
                token=trainer.token,
                progress=lambda done, total, label: trainer.emit(Progress(done, total, label)),
                batch=trainer.pictures_at_once,
            )
    except (RuntimeError, MemoryError) as error:
        if not ladder.out_of_memory(error):
            raise
        return None
