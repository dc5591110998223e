"""The check of an export in a coarse precision: its adherence on held-out pairs, beside the checkpoint's own."""

from __future__ import annotations

from typing import Any

import torch

from engine.errors import UserError
from engine.evaluation.adherence import compare
from engine.export.held_out_scores import HeldOutScorer, Scores
from engine.export.quantization_loss import Interval, QuantizationLoss, find_loss, keep_loss
from engine.export.source import Source
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.workspace.paths import Workspace

PAIRS = 24
"""Held-out pairs on which a loss is measured, if the run has as many."""


class QuantizationCheck:
    """Measures the quantization loss of a run's net, unless it is known, and refuses a net that has lost too much."""

    def __init__(
        self,
        workspace: Workspace,
        run: Run,
        checkpoint: Checkpoint,
        token: CancelToken | None = None,
        progress: OnProgress | None = None,
        enabled: bool = True,
    ) -> None:
        """
        Args:
            enabled: False: every net passes, because the caller measures it.
        """
        self._where = workspace, run, checkpoint
        self._token, self._progress, self._enabled = token, progress, enabled

    def __call__(self, source: Source, nets: tuple[Any, Any] | None = None) -> str:
        """Return a sentence with the loss.

        Args:
            source: in the precision that is checked.
            nets: denoiser and ControlNet as they were written; None: the source's tensors, with torch.

        Raises:
            UserError: the loss is too large, or cannot be measured.
        """
        if not self._enabled:
            return ""
        _, run, checkpoint = self._where
        weights, what = source.metadata["weights"], source.precision
        loss = find_loss(run.exports, checkpoint.folder.name, weights, what)
        if loss is None:
            following = self._token, self._progress
            with HeldOutScorer(*self._where, PAIRS) as pairs:
                whole = pairs.measure(source.config, source.original, *following)
                if nets is None:
                    written = pairs.measure(source.config, source.tensors, *following)
                else:
                    written = pairs.measure_nets(*nets, *following)
            loss = loss_of(whole, written, checkpoint, weights, what)
            keep_loss(run.exports, loss)
        loss.require_acceptable()
        return loss.text

    def refuse_known(self, weights: str, precision: str) -> None:
        """Refuse, before anything is computed, a net of which an earlier export measured that it loses too much.

        Raises:
            UserError: says how much.
        """
        _, run, checkpoint = self._where
        if self._enabled and (loss := find_loss(run.exports, checkpoint.folder.name, weights, precision)):
            loss.require_acceptable()

    def calibration(self, count: int) -> list[dict[str, torch.Tensor]]:
        """Inputs of the nets from held-out pairs (``HeldOutScorer.calibration``)."""
        # Without "with", which would clear the folder into which engine/export/compare.py exports.
        return HeldOutScorer(*self._where, PAIRS).calibration(count)


def loss_of(whole: Scores, written: Scores, checkpoint: Checkpoint, weights: str, what: str) -> QuantizationLoss:
    """The loss between two measurements of the same pairs.

    Raises:
        UserError: there are too few pairs, or even the originals do not follow their maps.
    """
    before, after, gap = whole.adherence, written.adherence, compare(whole.rows, written.rows)
    if before is None or after is None or gap is None:
        raise UserError(
            f"Nothing was exported in {what}.",
            "Its loss of adherence cannot be measured: the run has fewer than two held-out pairs, or even the original "
            "images do not follow their control images.",
            "Export in fp16.",
        )
    one, two, between = (Interval(found.value, found.low, found.high) for found in (before, after, gap))
    return QuantizationLoss(checkpoint.folder.name, weights, what, one, two, between, before.pairs)
