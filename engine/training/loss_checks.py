"""Loss checks of a run in progress: when they are due, what they cost, and what the figures so far amount to."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace

from engine.config.validation import CHECK_SHARE
from engine.evaluation.run_verdict import judge_run
from engine.evaluation.verdict import Verdict
from engine.jobs.events import Message
from engine.machine.clock import active_time
from engine.machine.errors import is_device_lost
from engine.machine.memory import none_if_out_of_memory
from engine.machine.units import counted
from engine.runs.checkpoints import list_checkpoints
from engine.training import oom
from engine.training.base_losses import BaseLosses
from engine.training.fixed_losses import ControlLosses
from engine.training.state import TrainState
from engine.tuning.facts import facts_of

ENDS_EARLY = ("flat", "overfitting", "memorizing", "broken")
"""Verdicts with which a run ends by itself, if its settings ask for that."""
MAX_LEFT_OUT = 3
"""Number of checks in a row that did not fit in memory, after which no more are tried."""


class Schedule:
    """Due at every ``every``-th step, unless too little time has passed for what the last one took."""

    def __init__(self, every: int, budget: float = CHECK_SHARE) -> None:
        """
        Args:
            every: steps; 0: never due.
            budget: largest share of the time; infinity: no limit.
        """
        self.every, self._budget = every, budget
        self._cost = 0.0
        self._ended: float | None = None

    def due(self, step: int, now: float) -> bool:
        """``now`` in seconds of a monotonic clock."""
        if not self.every or step % self.every:
            return False
        return self._ended is None or now - self._ended >= self._cost / self._budget

    def took(self, began: float, ended: float) -> None:
        """Record when a check began and ended."""
        self._cost, self._ended = ended - began, ended


class LossChecks:
    """Measures the losses of fixed pairs between two steps, with the weights that an export would have.

    An error here never ends the training: it is logged, and there are no more checks.
    """

    def __init__(self, state: TrainState) -> None:
        settings = state.config.validation
        self.schedule = Schedule(settings.check_every, settings.share_of_checks)
        self._state = state
        facts = facts_of(state.config)
        judged = (facts.needs_condition_maps or facts.drawn_by_prompt) and not facts.distilled
        kind = ControlLosses if facts.needs_condition_maps else BaseLosses
        self.losses: ControlLosses | BaseLosses = kind(state)
        self._off = not (settings.check_every and state.is_main and judged)
        self._at_once = state.config.train.batch_size
        self._first_step = state.step
        self._left_out = 0  # checks in a row that did not fit
        self._told_of_left_out = False  # pairs that are not finite
        self.should_stop_early = False
        """The run's settings ask to end it when it no longer improves, which is now the case."""

    def verdict(self, checkpoints: Sequence[int] = (), since: int = 0) -> Verdict:
        """The verdict on the figures from step ``since`` on. If it cannot be computed: "too early", and a warning."""
        state, history = self._state, self._state.history
        try:
            return judge_run(state.config, history, checkpoints, state.trained_samples, since=since)
        except Exception as error:  # a run must not end because of a sentence above the charts
            state.emit(Message(f"No verdict: {type(error).__name__}: {error}", "warning"))
            return Verdict("too_early", "")

    def best_checkpoint(self) -> int | None:
        """The step of the best checkpoint by the figures so far."""
        return self.verdict([saved.step for saved in list_checkpoints(self._state.run_folder)]).best

    def check_if_due(self, always: bool = False) -> bool:
        """Run a check if one is due, or ``always``. Returns whether it ran."""
        if self._off or not (always or self.schedule.due(self._state.step, active_time())):
            return False
        try:
            made = none_if_out_of_memory(self._check)
            if made is None:  # out of memory: one pair at a time from now on
                oom.clear(self._state)
                self._at_once = 1
                made = none_if_out_of_memory(self._check)
            self._left_out = 0 if made else self._left_out + 1
            if made is None:
                self._leave_out()
            return bool(made)
        except Exception as error:
            if is_device_lost(error):
                raise  # nothing works from here on: the run ends with its own message
            self._off = True
            detail = traceback.format_exc(limit=-2).replace("\n", " ")[:400]
            words = f"This run is no longer checked (control gain, held-out loss): {error} ({detail})"
            self._state.emit(Message(words, "warning"))
            return False

    def _leave_out(self) -> None:
        """Memory ran out for one pair at a time, too. Another program may be the cause, so the next check is tried."""
        oom.clear(self._state)
        self._off = self._left_out == MAX_LEFT_OUT
        then = f"; {MAX_LEFT_OUT} in a row were skipped, and this run is no longer checked" if self._off else ""
        words = f"The check of step {self._state.step:,} was skipped: memory ran out even for one pair at a time{then}."
        self._state.emit(Message(words, "warning"))

    def _check(self) -> bool:
        """One check.

        Raises:
            OutOfMemoryError, MemoryError: it does not fit.
        """
        state, began = self._state, active_time()
        with state.exported_weights():
            if not self.losses.ready:
                self.losses.prepare()
                began = active_time()  # that is done once
            check = self.losses.check(self._at_once)
        ended = active_time()
        self.schedule.took(began, ended)
        if not check.finite:
            return True  # broken weights: the loop ends the run with a message
        if check.left_out and not self._told_of_left_out:
            self._told_of_left_out = True
            words = (
                f"The check of step {state.step:,} left out {counted(check.left_out, 'pair')}, whose loss is NaN or "
                "infinite: their images may be broken. Later checks leave out such pairs, too."
            )
            state.emit(Message(words, "warning"))
        state.emit(replace(check.event, seconds=ended - began))
        if state.config.validation.stop_when_flat:
            # A run that stopped by itself and was resumed has to become flat again.
            verdict = self.verdict(since=self._first_step)
            if verdict.kind in ENDS_EARLY:
                self.should_stop_early = True
                state.emit(Message(f"The run ends by itself, as its settings ask. {verdict.sentence}"))
        return True
