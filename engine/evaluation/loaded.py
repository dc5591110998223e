"""Loads the models of a checkpoint, and draws with them within the memory that there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from engine.bases.merging import ready_base
from engine.config import ValidationConfig
from engine.evaluation.pairs import ImageRequest, Models, draw, to_images
from engine.families.registry import detect
from engine.inference.memory_saving import MemorySaving
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.device import is_card, torch_device
from engine.machine.memory import cap_allocator, free_memory, none_if_out_of_memory
from engine.nets.controlnet_files import check_finite, check_fits, locate_controlnet, read_config
from engine.nets.frozen_layers import quantize_as_trained
from engine.runs.checkpoints import Checkpoint, require_intact
from engine.runs.run import Run
from engine.tuning.unlocked import load_trained_base
from engine.workspace.paths import Workspace

T = TypeVar("T")


def load_models(workspace: Workspace, run: Run, checkpoint: Checkpoint, base: str = "") -> Models:
    """Loads base and ControlNet, in fp16 on a graphics card, in fp32 on the CPU.

    Args:
        base: another one, as ``ready_base`` takes it; empty: the run's.

    Raises:
        UserError: the base is missing or is not the one that the checkpoint was trained on, or the checkpoint is
            damaged or has weights that are not finite.
    """
    base = ready_base(workspace, base or run.config.model.whole_base)
    family = detect(base)
    name, folder = f"of step {checkpoint.step:,}", locate_controlnet(checkpoint.controlnet)
    check_fits(read_config(folder), family.denoiser_config(base), name, run.config.model.base, family.facts)
    require_intact(checkpoint.folder, f"{folder.name}/")
    device = torch_device()
    cap_allocator(device)
    dtype = torch.float16 if is_card(device) else torch.float32
    denoiser = quantize_as_trained(family.load_denoiser(base, dtype), checkpoint.about, family.layers, device)
    load_trained_base(checkpoint.folder, denoiser, family.layers)
    net: Any = family.load_controlnet(folder, dtype).to(device)
    check_finite(net, name)
    return Models(family, base, denoiser, net, text=run.config.text, schedule=checkpoint.noise_schedule)


class LowMemoryDrawing:
    """Draws as many images at once as memory allows: then fewer, then in tiles, then with offload to RAM.

    ``notes`` says afterwards what was reduced.
    """

    def __init__(self, models: Models, saving: MemorySaving | None = None) -> None:
        self._models = models
        self._device = models.denoiser.device
        self.saving = saving or MemorySaving(self._device)
        self.notes: list[str] = []

    def images(
        self,
        requests: Sequence[ImageRequest],
        settings: ValidationConfig,
        token: CancelToken | None,
        progress: OnProgress | None,
        also: Callable[[Any], T],
    ) -> tuple[list[np.ndarray], T]:
        """One image for each request, uint8 RGB (h, w, 3), and the result of ``also(vae)``.

        Raises:
            UserError: one image at a time, in tiles and with offload still does not fit into memory.
            Cancelled: the token was cancelled.
        """
        models, saving = self._models, self.saving

        def sample() -> list[torch.Tensor]:
            with saving.on_device(models.denoiser, models.controlnet):
                return draw(models, requests, settings, token, progress, saving.batch_size)

        def show() -> tuple[list[np.ndarray], T]:
            vae = models.family.load_vae(models.base)
            if not saving.offload:
                vae.to(self._device)
            with saving.on_device(vae), saving.tiled(vae):
                return to_images(models, vae, latents, token), also(vae)

        latents = self._do(sample)
        return self._do(show)

    def _do(self, stage: Callable[[], T]) -> T:
        """Repeats a stage with less and less memory until it fits."""
        while True:
            found = none_if_out_of_memory(stage)
            if found is not None:
                return found
            self.notes.append(self.saving.save_more())
            if self.saving.offload:
                for part in (self._models.denoiser, self._models.controlnet):
                    part.to("cpu")
            free_memory()
