"""The nets of a checkpoint, loaded to draw with them."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from engine.evaluation.pairs import Nets
from engine.families import detect
from engine.runs import Run
from engine.training.checkpoint_files import DECODER, Checkpoint
from engine.training.scope import decoder_of
from engine.workspace import Workspace


def load_nets(workspace: Workspace, run: Run, checkpoint: Checkpoint) -> Nets:
    """Base and ControlNet, in fp16 on a card, in fp32 without one.

    Raises:
        UserError: the base is not there, or the weights are broken.
    """
    base = workspace.locate_base(run.config.model.base)
    family = detect(base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    unet: Any = family.load_unet(base, dtype).to(device)
    decoder = checkpoint.folder / DECODER
    if decoder.is_file():  # of a run whose base was not locked
        decoder_of(unet).load_state_dict(load_file(decoder))
    net: Any = family.load_controlnet(checkpoint.controlnet, dtype).to(device)
    return Nets(family, base, unet, net)
