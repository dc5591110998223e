"""Try it while a run trains: drawn between two steps with the models of the run, so that nothing is loaded twice.

The base's UNet and the live weights are the trainer's own; text encoder and VAE, which training does not hold, are
loaded for the drawing and forgotten after it. Training goes on as if nothing had been: bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import UserError
from engine.families.registry import Family
from engine.inference.memory_saving import TILED, MemorySaving
from engine.inference.request import LIVE
from engine.inference.session import TrySession
from engine.jobs.control import BorrowRequest, Cancelled, CancelToken
from engine.jobs.events import PhaseChanged
from engine.machine.memory import free_memory
from engine.nets.controlnet_files import check_finite
from engine.nets.master_weights import as_exported
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.training.trainer import Trainer


class BorrowedSession(TrySession):
    """A session on the models of a run in progress. ``LIVE`` stands for its weights as they are now.

    Any checkpoint or file for the same base can be drawn with, too.
    """

    def __init__(self, workspace: Workspace, trainer: Trainer, net: Any) -> None:
        super().__init__(workspace, trainer.device, trainer.dtype)
        self._trainer, self._live = trainer, net
        self.memory_saving = MemorySaving(self._device, TILED)  # the lent parts stay where training wants them
        self.memory_saving.level = TILED if trainer.device.type == "cuda" else 0  # training has filled the card

    @property
    def step(self) -> int:
        """Of the weights of this moment."""
        return self._trainer.step

    def load(self, base: str, controlnet: Path) -> None:
        trainer = self._trainer
        if self._workspace.locate_base(base) != trainer.base:
            raise UserError(
                f"{base} cannot be tried while the training runs.",
                f"The training holds another base ({trainer.config.model.base}), and a second one is not loaded "
                "beside it.",
                "Wait until the training has ended, or pause it.",
            )
        if controlnet != LIVE:
            if trainer.decoder is not None:
                raise UserError(
                    f"{controlnet.name} cannot be tried while the training runs.",
                    "In this run the base learns, too, and only its present state is in memory.",
                    "Try the live weights, or pause the training.",
                )
            super().load(base, controlnet)
            return
        if self._controlnet is None or self._controlnet[0] != LIVE:
            check_finite(self._live, "being trained")
            self._use(trainer.family, trainer.base, self._live)
            self._controlnet = (LIVE, trainer.step)

    def _denoiser(self, family: Family, located: str) -> Any:
        return self._trainer.unet


def serve(trainer: Trainer) -> None:
    """Do what was sent to the training since the last step. Nothing that happens here ends the training."""
    if trainer.token.stop is not None or not trainer.accelerator.is_main_process:
        return  # whoever ends a training does not wait for images; the runner refuses them
    for request in trainer.token.take_borrow_requests():
        trainer.emit(PhaseChanged("validating"))
        request.do(trainer)
        free_memory()
        trainer.emit(PhaseChanged("running"))


def borrowing(workspace: Workspace, draw: Callable[[TrySession, CancelToken], Any]) -> BorrowRequest:
    """An request for a training: ``draw(session, token)`` with its models, between two of its steps."""

    def work(trainer: Trainer, request: BorrowRequest) -> Any:
        devices = [trainer.device] if trainer.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), as_exported(trainer) as live:
            modes = {net: net.training for net in (trainer.unet, live)}
            session = BorrowedSession(workspace, trainer, live)
            try:
                for net in modes:
                    net.eval()
                return draw(session, _Either(trainer, request))
            finally:
                for net, mode in modes.items():
                    net.train(mode)
                session.free()

    return BorrowRequest(work)


class _Either:
    """Ends the drawing when its owner cancels it, or when the training is to end."""

    def __init__(self, trainer: Trainer, request: BorrowRequest) -> None:
        self._trainer, self._request = trainer, request

    def raise_if_cancelled(self) -> None:
        self._request.raise_if_cancelled()
        try:
            self._trainer.token.raise_if_cancelled()
        except Cancelled:
            raise UserError(
                "The image was not drawn to its end.",
                "The training that lent its models was paused or ended meanwhile.",
                "Try again: its last checkpoint is in the list.",
            ) from None
