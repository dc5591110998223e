"""One training run: set-up, and the loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.jobs.control import Token
from engine.jobs.events import PhaseChanged, RunOpened
from engine.jobs.runner import Emit
from engine.jobs.snapshot import Outcome
from engine.machine.clock import active_time
from engine.machine.memory import free_memory, trim_heap
from engine.runs.checkpoints import Checkpoint
from engine.training import torch_settings
from engine.training.faults import report_skipped, take_step
from engine.training.hooks import Hooks, PreviewFunction
from engine.training.losses import UnreadLosses
from engine.training.optim import learning_rate
from engine.training.setup import set_up
from engine.training.step import Skipped


class Trainer:
    """A run that is ready to train: its state, and what follows each step."""

    def __init__(
        self,
        run_folder: Path,
        config: RunConfig,
        base: str,
        dataset: Dataset,
        cache_folder: Path,
        token: Token,
        emit: Emit,
        preview: PreviewFunction | None = None,
        about: dict[str, Any] | None = None,
        configured_batch_size: int | None = None,
        held_out: Sequence[str] | None = None,
    ) -> None:
        """Set the run up, or resume it from its newest checkpoint. Arguments as for ``set_up``.

        Args:
            preview: draws and scores the previews of a step.
        """
        given = (run_folder, config, base, dataset, cache_folder, token, emit, about or {})
        with ExitStack() as stack:
            stack.enter_context(torch_settings.for_a_run(config.train))
            self.state = set_up(*given, configured_batch_size, held_out)
            self.losses = UnreadLosses(self.state, self.save)
            self.hooks = Hooks(self.state, preview, self.losses.read)
            self._until_closed = stack.pop_all()

    def train(self) -> Outcome:
        """Train to the last step, or until the user asks for a pause or stop. Returns how it ended."""
        state, total = self.state, self.state.config.train.steps
        state.emit(RunOpened(state.run_folder, state.config.name, state.step, total, state.images_per_step))
        state.emit(PhaseChanged("running"))
        state.parallel.on_main(self.hooks.before_first_step)
        while state.step < total and state.group.keep_going(state.token, self.hooks.loss_checks.should_stop_early):
            # Learning rate: a pure function of the step.
            began = active_time()
            rate = learning_rate(state.config.optim, state.step, total)
            state.set_learning_rate(rate)

            # One optimizer step (step.py). None: no weight was updated, and it is tried again.
            outcome = take_step(state)
            if outcome is None:
                continue
            state.step_done()

            # Report the loss; on a card for several steps at once (losses.py). A skipped step has none.
            if isinstance(outcome, Skipped):
                self.losses.read()
                report_skipped(state, state.step, outcome, self.save)
            else:
                self.losses.add(rate, active_time() - began, outcome)
            if state.step == total:
                self.losses.read()

            # Checkpoint, loss checks, previews, models lent to Try it (hooks.py).
            state.parallel.on_main(self.hooks.after_step)
        self.losses.read()
        self.save()
        if state.step == total:
            return "completed"
        return "stopped" if state.token.stop_requested is None else state.token.stop_outcome

    def save(self) -> Checkpoint | None:
        """Write a checkpoint of this step, now; see ``Checkpointer.save``."""
        return self.state.parallel.on_main(self.hooks.checkpointer.save)

    def close(self) -> None:
        """End the threads, free the memory, and put torch's settings back."""
        with self._until_closed:
            self._close()

    def _close(self) -> None:
        self.state.batches.close()
        self.hooks.close()
        del self.hooks, self.losses
        self.state.close()
        free_memory()
        trim_heap()
