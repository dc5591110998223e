"""When a run fails: save what can still be saved, and name the checkpoint that is left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from engine.errors import DataGone, UserError
from engine.jobs.faults import error_chain, lost_card_words
from engine.machine.errors import is_device_lost
from engine.runs.recorder import Recorder
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

lost_cards: list[str] = []
"""Why this process can no longer compute: at most one sentence, since it uses one card."""


def lost_card() -> str:
    """Why nothing can be computed until the app is restarted; empty while the card works."""
    return lost_cards[0] if lost_cards else ""


def record_failure(run: Run, trainer: Trainer | None, recorder: Recorder, error: BaseException) -> UserError | None:
    """Save what is whole and record the failure. Returns an error that says more than ``error`` does, or None."""
    words: UserError | None = None
    if trainer is not None:
        trainer.hooks.checkpointer.wait()
    if any(is_device_lost(one) for one in error_chain(error)):
        words = _card_is_lost(run, error)
    elif trainer is not None and isinstance(error, DataGone):
        _save(trainer)
    try:
        recorder.record_status("failed", run.last_step)
    except OSError as unwritten:  # the disk is gone, too: the run will be listed as interrupted
        print(f"{run.folder}: {unwritten}", file=sys.stderr)
    return words or _with_offers(run, error)


def _with_offers(run: Run, error: BaseException) -> UserError | None:
    """The error with ways to resume the run, or None if there are none."""
    from engine.training.offers import with_offers

    try:
        return with_offers(error, Run(run.folder))  # read again: memory fallbacks were recorded since
    except (UserError, OSError):
        return None  # its disk is gone, too: the first error says what happened


def close(trainer: Trainer) -> None:
    """Free what the trainer holds. A lost card refuses even that, which must not hide the first error."""
    try:
        trainer.close()
    except RuntimeError as error:
        if not is_device_lost(error):
            raise


def _card_is_lost(run: Run, error: BaseException) -> UserError:
    lost_cards[:] = ["The graphics card stopped answering earlier: close the app and start it again."]
    saved = run.last_step
    left = f"the checkpoint of step {saved:,} is complete" if saved else "nothing had been saved yet"
    lost = f"Its memory can no longer be read, so nothing could be saved now; {left}."
    return UserError(*lost_card_words(error, lost, "resume" if saved else "start the run again"))


def _save(trainer: Trainer) -> None:
    """Save the weights of the last finished step, unless an optimizer failed in mid-step or the weights are sharded."""
    state = trainer.state
    if state.step and not state.updating_weights and not state.parallel.sharded:
        trainer.save()
