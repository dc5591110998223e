"""Try it beside a training: the run's own base and device, its live weights, and checkpoints one after another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.errors import UserError
from engine.inference import TrySession
from engine.training.checkpoint_files import DECODER
from engine.training.scope import decoder_of
from engine.workspace import Workspace

if TYPE_CHECKING:
    from engine.training.lending import Lent

LIVE = Path("the weights of this moment")
"""As a request's ``controlnet``: the one that is learning."""


class BorrowedSession(TrySession):
    """A session on what a run lends: only text encoder, VAE and the one ControlNet in use are loaded beside it.

    Use it within the visit that brought ``lent`` (see engine/jobs/visits.py), and drop it there.
    """

    def __init__(self, workspace: Workspace, lent: Lent) -> None:
        super().__init__(workspace, lent.device, lent.dtype)
        self._lent = lent
        self._own_decoder: dict[str, torch.Tensor] | None = None
        self._fill()

    def _fill(self) -> None:
        lent = self._lent
        pipeline = lent.family.pipeline(lent.base, lent.controlnet, lent.dtype, unet=lent.unet, vae=None)
        lent.family.text_parts(pipeline)[1].to(lent.device)
        self._vae = lent.family.load_vae(lent.base, torch.float32).to(lent.device)
        self._pipeline, self._family, self._base = pipeline, lent.family, lent.base

    def load(self, base: str, controlnet: Path) -> None:
        """As ``TrySession.load``; ``LIVE`` stands for the net that is learning.

        Raises:
            UserError: another base than the run's, or a checkpoint that does not fit.
        """
        with self._lock:
            if self._workspace.locate_base(base) != self._lent.base:
                raise UserError(
                    "The picture cannot be drawn while this training runs.",
                    f"It needs the base {base}, and the training holds another one in memory.",
                    "Pause the training, or choose its own checkpoints.",
                )
            if controlnet == LIVE:
                self._pipeline.register_modules(controlnet=self._lent.controlnet)
                self._controlnet = None
                self._put_decoder_back()
                return
            self._keep_decoder(Path(controlnet))
            super().load(base, controlnet)
            self._decoder_learnt = False  # else the base would be dropped before another net is loaded

    def free(self) -> None:
        """Nothing: what is lent is the run's, and the rest goes with this session."""

    def _keep_decoder(self, controlnet: Path) -> None:
        """Before a checkpoint's decoder is loaded over that of the run."""
        if self._own_decoder is None and (controlnet.parent / DECODER).is_file():
            weights = decoder_of(self._lent.unet).state_dict()
            self._own_decoder = {name: weight.detach().cpu().clone() for name, weight in weights.items()}

    def _put_decoder_back(self) -> None:
        if self._own_decoder is not None:
            decoder_of(self._lent.unet).load_state_dict(self._own_decoder)
