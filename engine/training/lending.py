"""Try it while a run trains: images are drawn between two steps with the run's models, so nothing is loaded twice.

The denoiser and the live weights are the training's own; text encoder and VAE, which training does not hold, are loaded
for the drawing and freed after it. Training then continues unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.errors import UserError
from engine.families.registry import Family
from engine.inference.memory_saving import TILED, MemorySaving
from engine.inference.request import LIVE
from engine.inference.session import TrySession
from engine.jobs.control import BorrowRequest, Cancelled, CancelToken, OnProgress
from engine.jobs.events import PhaseChanged
from engine.machine.device import random_state_kept
from engine.machine.memory import free_memory
from engine.machine.onnx_packages import TORCH
from engine.nets.controlnet_files import check_finite
from engine.nets.onnx_net import is_onnx
from engine.training.state import TrainState
from engine.tuning.facts import facts_of
from engine.workspace.paths import Workspace


class BorrowedSession(TrySession):
    """A session with the models of a running training. ``LIVE`` stands for its weights as they are now.

    It can draw with any checkpoint or file for the same base, too.
    """

    def __init__(self, workspace: Workspace, state: TrainState, net: Any) -> None:
        super().__init__(workspace, state.device, state.dtype)
        self._state, self._live = state, net
        self.memory_saving = MemorySaving(self._device, TILED)  # the lent parts stay where training wants them
        self.memory_saving.level = TILED if state.on_card else 0  # training has filled the card

    @property
    def step(self) -> int:
        """The step of the live weights."""
        return self._state.step

    def load(
        self,
        base: str,
        controlnet: Path,
        token: CancelToken | None = None,
        progress: OnProgress = lambda done, total, label: None,
        bare: bool = False,
        engine: str = TORCH,
    ) -> None:
        """Use the live weights (``LIVE``), or a checkpoint or file for the same base.

        Raises:
            UserError: another base, or the trainable can only be tried live.
        """
        state = self._state
        if self._workspace.locate_base(base) != state.base:
            raise UserError(
                f"{base} cannot be tried during training.",
                f"The training uses another base ({state.config.model.base}), and a second one is not loaded at "
                "the same time.",
                "Wait until the training ends, or pause it.",
            )
        if engine != TORCH or is_onnx(controlnet):
            raise UserError(
                "ONNX Runtime cannot be used during training.",
                "It would load the base a second time.",
                "Choose PyTorch as the engine and a checkpoint, or pause the training.",
            )
        if controlnet != LIVE:
            if why := state.trainable.why_only_live():
                raise UserError(
                    f"{controlnet.name} cannot be tried during training.",
                    why,
                    "Try the live weights, or pause the training.",
                )
            super().load(base, controlnet, token, progress)
            return
        facts, live = facts_of(state.config), self._live
        if bare and facts.added_to_base:
            raise UserError(
                "The base alone cannot be drawn with during training.",
                f"Its layers carry what is trained: {facts.trains}.",
                "Switch off the comparison, or pause the training.",
            )
        if facts.why_not_drawn and not facts.added_to_base:
            why = facts.why_not_drawn
            raise UserError(
                "No images can be drawn with the live weights.", why, "Pause the training to draw with another run."
            )
        if self._controlnet is None or self._controlnet[0] != LIVE:
            if live is not None:
                check_finite(live, "being trained")
            self._use(state.family, state.base, live, state.noise_process.schedule, {})
            if (text := state.trainable.learned_text) is not None:
                self._tokenizer, self._text_encoder = text.tokenizer, text.encoder
            self._controlnet = (LIVE, state.step)

    def _denoiser(self, family: Family, located: str, about: Mapping[str, Any]) -> Any:
        return self._state.denoiser


def lend_models(state: TrainState) -> None:
    """Answer the requests that came since the last step. No error in them ends the training."""
    if state.token.stop_requested is not None or not state.is_main:
        return  # a pause does not wait for images; the runner refuses the requests
    for request in state.token.take_borrow_requests():
        state.emit(PhaseChanged("validating"))
        request.do(state)
        free_memory()
        state.emit(PhaseChanged("running"))


def borrowing(workspace: Workspace, draw: Callable[[TrySession, CancelToken], Any]) -> BorrowRequest:
    """A request to a run in progress: ``draw(session, token)`` with its models, between two of its steps."""

    def work(state: TrainState, request: BorrowRequest) -> Any:
        with random_state_kept(state.device), torch.no_grad(), state.exported_weights() as live:
            modes = {net: net.training for net in (state.denoiser, live) if net is not None}
            steers = facts_of(state.config).learned.control
            session = BorrowedSession(workspace, state, live if steers else None)
            try:
                for net in modes:
                    net.eval()
                return draw(session, _Either(state, request))
            finally:
                for net, mode in modes.items():
                    net.train(mode)
                session.free()

    return BorrowRequest(work)


class _Either:
    """Cancels the drawing when its user cancels it, or when the training is to end."""

    def __init__(self, state: TrainState, request: BorrowRequest) -> None:
        self._state, self._request = state, request

    def raise_if_cancelled(self) -> None:
        self._request.raise_if_cancelled()
        try:
            self._state.token.raise_if_cancelled()
        except Cancelled:
            raise UserError(
                "The image was not finished.",
                "The training whose models were used was paused or has ended.",
                "Try again with its last checkpoint, which is in the list.",
            ) from None
