"""The nets of a checkpoint, loaded to draw with them; drawing with them gives way where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file

from engine.config import ValidationConfig
from engine.evaluation.pairs import Nets, Wanted, draw, to_images
from engine.families.registry import detect
from engine.inference.memory_saving import MemorySaving
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.memory import free_memory, none_if_out_of_memory
from engine.nets.controlnet_files import check_finite, check_fits, locate_controlnet, read_config
from engine.nets.trainable import decoder_of
from engine.runs.checkpoints import DECODER, Checkpoint, demand_whole
from engine.runs.run import Run
from engine.workspace.paths import Workspace

T = TypeVar("T")


def load_nets(workspace: Workspace, run: Run, checkpoint: Checkpoint) -> Nets:
    """Base and ControlNet, in fp16 on a card, in fp32 without one.

    Raises:
        UserError: the base is not there or is not the one that the checkpoint was made for, or the checkpoint is
            damaged or holds what is no number.
    """
    base = workspace.locate_base(run.config.model.base)
    family = detect(base)
    name, folder = f"of step {checkpoint.step:,}", locate_controlnet(checkpoint.controlnet)
    check_fits(read_config(folder), family.denoiser_config(base), name, run.config.model.base)
    demand_whole(checkpoint.folder, f"{folder.name}/")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    denoiser: Any = family.load_denoiser(base, dtype).to(device)
    decoder = checkpoint.folder / DECODER
    if decoder.is_file():  # of a run whose base was not locked
        demand_whole(checkpoint.folder, DECODER)
        decoder_of(denoiser).load_state_dict(load_file(decoder))
    net: Any = family.load_controlnet(folder, dtype).to(device)
    check_finite(net, name)
    return Nets(family, base, denoiser, net)


class Sparing:
    """Draws as much at once as memory allows: less of it, then in tiles, then with parts of the model in RAM.

    ``words`` says afterwards what was done otherwise for want of memory.
    """

    def __init__(self, nets: Nets, saving: MemorySaving | None = None) -> None:
        self._nets = nets
        self._device = nets.denoiser.device
        self.saving = saving or MemorySaving(self._device)
        self.words: list[str] = []

    def images(
        self,
        asked: Sequence[Wanted],
        settings: ValidationConfig,
        token: CancelToken | None,
        progress: OnProgress | None,
        also: Callable[[Any], T],
    ) -> tuple[list[np.ndarray], T]:
        """Images, uint8 RGB (h, w, 3), one for each that was asked for; and ``also(vae)``.

        Raises:
            UserError: memory is not enough for one image at a time, in tiles and with offload.
            Cancelled: the token says so.
        """
        nets, saving = self._nets, self.saving

        def sample() -> list[torch.Tensor]:
            with saving.on_device(nets.denoiser, nets.controlnet):
                return draw(nets, asked, settings, token, progress, saving.batch_size)

        def show() -> tuple[list[np.ndarray], T]:
            vae = nets.family.load_vae(nets.base, torch.float32)
            if not saving.offload:
                vae.to(self._device)
            with saving.on_device(vae), saving.tiled(vae):
                return to_images(nets, vae, latents, token), also(vae)

        latents = self._do(sample)
        return self._do(show)

    def _do(self, stage: Callable[[], T]) -> T:
        while True:
            found = none_if_out_of_memory(stage)
            if found is not None:
                return found
            self.words.append(self.saving.save_more())
            if self.saving.offload:
                for part in (self._nets.denoiser, self._nets.controlnet):
                    part.to("cpu")
            free_memory()
