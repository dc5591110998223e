"""Checks of a run in progress: when they are due, what they cost, what they have found so far."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.evaluation.causes import facts_of
from engine.evaluation.verdict import Verdict, judge
from engine.jobs.events import Checked, Event, Message, PreviewMade
from engine.jobs.runner import Emit
from engine.jobs.snapshot import add_check
from engine.machine.clock import awake
from engine.machine.errors import is_device_lost
from engine.machine.memory import none_if_out_of_memory
from engine.nets.master_weights import as_exported
from engine.runs.metrics import read_metrics
from engine.training import fixed_losses, oom

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

SHARE = 0.03
"""Most of the time that checks may take."""
MOST_LEFT_OUT = 3
"""Checks in a row that did not fit in memory, after which none is tried any more."""


class Pace:
    """Due at every ``every``-th step, unless too little time has passed for what the last check took."""

    def __init__(self, every: int, share: float = SHARE) -> None:
        self._every, self._share = every, share
        self._cost = 0.0
        self._ended: float | None = None

    def due(self, step: int, now: float) -> bool:
        """``now`` in seconds of a monotonic clock."""
        if not self._every or step % self._every:
            return False
        return self._ended is None or now - self._ended >= self._cost / self._share

    def took(self, began: float, ended: float) -> None:
        self._cost, self._ended = ended - began, ended


class Heard:
    """Hands events on, and remembers the figures that a verdict needs, those of earlier sittings included."""

    def __init__(self, run_folder: Path, emit: Emit) -> None:
        self._emit = emit
        self.checks: tuple[Checked, ...] = ()
        self.scores: list[tuple[int, dict[str, float]]] = []
        self.figures: list[tuple[int, dict[str, float]]] = []
        for entry in read_metrics(run_folder):
            if "control_gain" in entry:
                self.checks = add_check(self.checks, Checked(**entry))
            elif "scores" in entry:
                self.scores.append((entry["step"], entry["scores"]))
                self.figures.append((entry["step"], entry.get("figures", {})))

    def __call__(self, event: Event) -> None:
        if isinstance(event, Checked):
            self.checks = add_check(self.checks, event)
        elif isinstance(event, PreviewMade):
            self.scores.append((event.step, event.scores))
            self.figures.append((event.step, event.figures))
        self._emit(event)


class Checks:
    """Measures fixed pairs between two steps, with the weights that an export would have.

    A fault here never ends the training: it is told in the log, and there are no more checks.
    """

    def __init__(self, trainer: Trainer) -> None:
        settings = trainer.config.validation
        self.pace = Pace(settings.check_every)
        self._trainer = trainer
        self._off = not settings.check_every or not trainer.accelerator.is_main_process
        self._at_once = trainer.config.train.batch_size
        self._fixed: tuple[list[fixed_losses.Fixed], list[fixed_losses.Fixed]] | None = None
        self._began = trainer.step
        self._short = 0  # checks in a row that did not fit
        self.enough = False
        """The run was asked to end when it no longer improves, and it no longer does."""

    def verdict(self, checkpoints: Sequence[int] = (), since: int = 0) -> Verdict:
        """What the figures from step ``since`` on amount to; nothing yet, where a fault keeps it from being judged."""
        trainer, heard = self._trainer, self._trainer.heard
        try:
            facts = facts_of(trainer.config, len(trainer.samples) - len(trainer.held_out))
            return judge([c for c in heard.checks if c.step >= since], facts, heard.scores, checkpoints, heard.figures)
        except Exception as error:  # a sentence above the charts is not worth a run
            trainer.emit(Message(f"No verdict: {type(error).__name__}: {error}", "warning"))
            return Verdict("too_early", "")

    def make_if_due(self, always: bool = False) -> bool:
        """Check where it is time to (or ``always``); whether it was done."""
        if self._off or not (always or self.pace.due(self._trainer.step, awake())):
            return False
        try:
            made = none_if_out_of_memory(self._make)
            if made is None:  # out of memory: one pair at a time from now on
                oom.clear(self._trainer)
                self._at_once = 1
                made = none_if_out_of_memory(self._make)
            self._short = 0 if made else self._short + 1
            if made is None:
                self._leave_out()
            return bool(made)
        except Exception as error:
            if is_device_lost(error):
                raise  # nothing will work any more: the run ends with words of its own
            self._off = True
            detail = traceback.format_exc(limit=-2).replace("\n", " ")[:400]
            words = f"This run is no longer checked (control gain, held-out loss): {error} ({detail})"
            self._trainer.emit(Message(words, "warning"))
            return False

    def _leave_out(self) -> None:
        """Memory ran out for one pair at a time, too; perhaps for another program, so the next one is tried."""
        oom.clear(self._trainer)
        self._off = self._short == MOST_LEFT_OUT
        then = f"; so were {MOST_LEFT_OUT} in a row, and this run is no longer checked" if self._off else ""
        words = (
            f"The check of step {self._trainer.step:,} was left out: memory ran out even for one pair at a time{then}."
        )
        self._trainer.emit(Message(words, "warning"))

    def _make(self) -> bool:
        """One check.

        Raises:
            OutOfMemoryError, MemoryError: it does not fit.
        """
        trainer, began = self._trainer, awake()
        if self._fixed is None:
            self._fixed = self._choose()
            began = awake()  # reading the pairs is done once
        with as_exported(trainer):
            figures = fixed_losses.check(trainer, *self._fixed, self._at_once)
        ended = awake()
        self.pace.took(began, ended)
        if not figures.finite:
            return True  # weights that broke: the loop says so in words
        trainer.emit(fixed_losses.event(trainer, figures, self._fixed[0], ended - began))
        if trainer.config.validation.stop_when_flat:
            # Whoever resumes a run that has stopped by itself wants to see it flat anew.
            verdict = self.verdict(since=self._began)
            if verdict.kind in ("flat", "overfitting", "broken"):
                self.enough = True
                trainer.emit(Message(f"The run ends by itself, as its settings ask. {verdict.sentence}"))
        return True

    def _choose(self) -> tuple[list[fixed_losses.Fixed], list[fixed_losses.Fixed]]:
        """The first held-out pairs, and as many training pairs, evenly from all of them."""
        trainer, count = self._trainer, self._trainer.config.validation.check_pairs
        trained = len(trainer.samples) - len(trainer.held_out)
        held_out = range(trained, len(trainer.samples))[:count]
        places = min(len(held_out), trained)
        spread = [number * trained // places for number in range(places)]
        return fixed_losses.fix(trainer, held_out), fixed_losses.fix(trainer, spread)
