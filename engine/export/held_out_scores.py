"""Scores of several forms of a net (formats, precisions) on its run's held-out pairs, drawn from the same seeds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from engine.bases.merging import ready_base
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.disk.in_use import clear
from engine.errors import UserError
from engine.evaluation.adherence import Adherence, PairScores, normalize
from engine.evaluation.pairs import Models, encoder, read_pair
from engine.evaluation.previews import PreviewCache, PreviewRequest, make_previews
from engine.families import onnx_graphs
from engine.families.registry import detect
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.device import is_card, torch_device
from engine.nets.frozen_layers import quantize_as_trained
from engine.nets.outputs import net_of
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.tuning.unlocked import load_trained_base
from engine.workspace.paths import Workspace


@dataclass(frozen=True)
class Scores:
    """The scores of one form of a net."""

    means: dict[str, float]
    rows: list[PairScores] = field(default_factory=list)
    """What its adherence is computed from, pair by pair."""

    @property
    def adherence(self) -> Adherence | None:
        return normalize(self.rows)


class HeldOutScorer:
    """Draws and scores the held-out pairs of a run, within a ``with`` block. Its images are removed at the end.

    Raises:
        UserError: the base or the dataset is gone, or no pair is held out.
    """

    def __init__(self, workspace: Workspace, run: Run, checkpoint: Checkpoint, pairs: int = 0) -> None:
        """
        Args:
            pairs: at most; 0: as many as the run draws for its previews.
        """
        self.checkpoint, self.base = checkpoint, ready_base(workspace, run.config.model.whole_base)
        self.family = detect(self.base)
        self.run = run
        self.dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
        self.samples = split(self.dataset, run.config.data.held_out, run.held_out).held_out
        settings = run.config.validation
        self.pairs = min(len(self.samples), pairs or settings.pictures)
        if not self.pairs:
            raise UserError("Nothing can be measured.", f"{self.dataset.name} has no held-out pair.", "Add images.")
        self.settings = settings.model_copy(update={"pictures": self.pairs})
        self.plan = CropPlan.of(run.config.data, run.config.train.seed)
        self._denoiser: Any = None
        self._cache, self._drawn = PreviewCache(), 0
        self.scratch = run.exports / ".comparing"
        """For files that are removed at the end, too."""

    def __enter__(self) -> HeldOutScorer:
        clear(self.scratch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        clear(self.scratch)

    @property
    def denoiser(self) -> Any:
        """The base's denoiser as the checkpoint was trained with it, loaded when it is first needed."""
        if self._denoiser is None:
            device = torch_device()
            loaded = self.family.load_denoiser(self.base, torch.float16 if is_card(device) else torch.float32)
            self._denoiser = quantize_as_trained(loaded, self.checkpoint.about, self.family.layers, device)
            load_trained_base(self.checkpoint.folder, self._denoiser, self.family.layers)
        return self._denoiser

    def measure(
        self,
        config: dict[str, Any],
        tensors: dict[str, torch.Tensor],
        token: CancelToken | None = None,
        progress: OnProgress | None = None,
    ) -> Scores:
        """Draw every pair with a net of these weights.

        Raises:
            Cancelled: the token is cancelled.
        """
        return self.measure_nets(self.denoiser, net_of(config, tensors).to(self.denoiser.device), token, progress)

    @torch.no_grad()
    def calibration(self, count: int) -> list[dict[str, torch.Tensor]]:
        """Noisy latents of held-out pairs with their texts and control images, as ``families.onnx_graphs`` names them.

        The noise levels are spread evenly over the whole schedule. The last held-out pairs come first: the first ones
        are those that are measured. Every fourth text is empty, as guidance needs it.
        """
        family, base = self.family, self.base
        process = family.noise_process(base).with_schedule(self.checkpoint.noise_schedule)
        encode, vae = encoder(family, base, "cpu", self.run.config.text), family.load_vae(base)
        found = []
        for number in range(count):
            sample = self.samples[-1 - number % len(self.samples)]
            pair = read_pair(sample, self.dataset, self.plan)
            pixels = torch.from_numpy(pair.original.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            latents = family.encode_mean(vae, pixels)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(number))
            timesteps = process.timesteps_at([(number + 0.5) / count])
            (text,) = encode(["" if number % 4 == 3 else sample.caption])
            rows = {name: row[None] for name, row in text.items()}
            found.append(
                {
                    "sample": process.add_noise(latents, noise, timesteps),
                    "timestep": timesteps.float(),
                    "control": family.encode_control(torch.from_numpy(pair.wanted.copy())[None]),
                    **onnx_graphs.text_inputs(rows, pair.original.shape[:2]),
                }
            )
        return found

    def measure_nets(
        self, denoiser: Any, net: Any, token: CancelToken | None = None, progress: OnProgress | None = None
    ) -> Scores:
        """``measure`` with loaded nets."""
        request = PreviewRequest(
            samples=self.samples,
            dataset=self.dataset,
            settings=self.settings,
            plan=self.plan,
            out_folder=self.scratch / "pictures",
            step=self._drawn,
        )
        self._drawn += 1
        schedule = self.checkpoint.noise_schedule
        models = Models(self.family, self.base, denoiser, net, text=self.run.config.text, schedule=schedule)
        record = make_previews(models, request, cache=self._cache, token=token, progress=progress)
        samples = json.loads((record.folder / "scores.json").read_text(encoding="utf-8"))["samples"]
        return Scores(record.scores, [PairScores(**one["normalising"]) for one in samples])
