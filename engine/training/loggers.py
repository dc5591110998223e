"""Metrics of a run for other programs: TensorBoard's files, and Weights & Biases if a setting asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.disk.watchdog import DiskWatchdog
from engine.jobs.events import BaseChecked, Checked, Event, Message, PreviewMade, StepDone
from engine.jobs.runner import Emit
from engine.training.event_file import EventFile

TENSORBOARD = "tensorboard"
EVERY = 10  # steps: a week of training makes a file of a few megabytes
Log = Callable[[Mapping[str, float], int], None]


def scalars(event: Event) -> tuple[dict[str, float], int]:
    """An event's metrics, by names that TensorBoard groups, and its step; no metrics for other events."""
    if isinstance(event, StepDone):
        found = {"train/loss": event.loss, "train/learning_rate": event.learning_rate}
        if event.seconds > 0:
            found["train/pictures_per_second"] = event.images_seen / max(1, event.step) / event.seconds
        return found, event.step
    if isinstance(event, Checked):
        found = {
            "check/held_out_loss": event.held_out_loss,
            "check/training_loss": event.training_loss,
            "check/control_gain": event.gain_share,
            "check/memory_gib": event.memory_gib,
        }
        if event.training_share is not None:
            found["check/control_gain_training"] = event.training_share
        return found, event.step
    if isinstance(event, BaseChecked):
        named = ("held_out_loss", "training_loss", "gain", "training_gain", "drift", "memory_gib")
        return {f"check/{name}": getattr(event, name) for name in named}, event.step
    if isinstance(event, PreviewMade):
        return {f"pictures/{name}": value for name, value in (event.scores | event.figures).items()}, event.step
    return {}, 0


class Loggers:
    """Passes events on and writes their metrics. A log that fails is reported once and dropped; training continues."""

    def __init__(self, folder: Path, config: RunConfig, emit: Emit, slow: DiskWatchdog | None = None) -> None:
        self._emit, self._slow = emit, slow
        self._logs: dict[str, Log] = {}
        self._close: list[Callable[[], Any]] = []
        if config.validation.tensorboard:
            self._try("TensorBoard's files", lambda: EventFile(folder / TENSORBOARD).add)
        if config.validation.wandb:
            self._try("Weights & Biases", lambda: self._weights_and_biases(folder, config))

    def __call__(self, event: Event) -> None:
        self._emit(event)
        if isinstance(event, StepDone) and event.step % EVERY and event.step > EVERY:
            return
        values, step = scalars(event)
        for name, log in list(self._logs.items()) if values else ():
            try:
                with self._slow.watch(f"Writing {name}", small=True) if self._slow else nullcontext():
                    log(values, step)
            except Exception as error:  # another package may raise anything, and a failing log must not end a run
                del self._logs[name]
                self._drop(name, error)

    def close(self) -> None:
        """Finish the logs. An error is reported, not raised."""
        for end in self._close:
            try:
                end()
            except Exception as error:
                self._drop("Weights & Biases", error)

    def _try(self, name: str, begin: Callable[[], Log]) -> None:
        try:
            self._logs[name] = begin()
        except Exception as error:  # see __call__
            self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        self._emit(Message(f"{name}: {error}. The figures are no longer written there; the run continues.", "warning"))

    def _weights_and_biases(self, folder: Path, config: RunConfig) -> Log:
        """Package, settings and account are the user's own; it is not imported unless the setting is on."""
        try:
            import wandb
        except ImportError as error:
            raise ImportError("its package is not installed (pip install wandb, then wandb login)") from error
        run: Any = wandb.init(
            project="controlnet-studio",
            name=folder.name,
            id=folder.name,
            resume="allow",
            dir=str(folder),
            config=config.model_dump(mode="json"),
        )
        self._close.append(run.finish)
        return lambda values, step: run.log(dict(values), step=step)
