"""The last check of an export: the file and the checkpoint have to draw the same image."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil
import torch

from engine.bases.merged_tensors import load_text_tensors
from engine.errors import UserError
from engine.export.formats import measured
from engine.export.self_check import Tensors, failed
from engine.export.source import Source
from engine.families.embedding_files import parts_by_folder
from engine.families.registry import Family
from engine.families.zero_controlnet import ZeroControlNet
from engine.inference.sampling import Text, decode, draw_latents, fit_control
from engine.inference.settings import SamplingOptions
from engine.jobs.control import CancelToken
from engine.machine.memory import free_memory
from engine.machine.units import GIB, format_bytes
from engine.nets.outputs import net_of

STEPS = 4
SIDE = 128  # px; enough for a comparison, and takes seconds even for SD 1.5 on a CPU
# A ControlNet copies the encoder half of its base: 361 of 860 million parameters for SD 1.5, 1,251 of 2,568 for SDXL.
DENOISER_TO_NET = 2.4
BESIDES = 1.5 * GIB  # bytes: VAE or text encoders, and activations
# Mean difference of two images, in grey levels of 255, that rounding of the weights may cause over the steps.
TOLERANCE = {"fp32": 0.5, "fp16": 4.0, "bf16": 12.0}


def bytes_needed(tensors: Tensors) -> float:
    """Memory for drawing with such a net and its base in fp32, one net at a time."""
    return 4 * (1 + DENOISER_TO_NET) * sum(tensor.numel() for tensor in tensors.values()) + BESIDES


def check(
    source: Source, tensors: Tensors, family: Family, base: str, name: str, token: CancelToken | None = None
) -> str:
    """Draw twice with the same seed, prompt and control image, and compare.

    Args:
        tensors: as read back from the file.
        base: located; empty if it is not on this computer.
        name: of the file, for the error.

    Returns:
        A sentence with the difference, or why nothing could be drawn.

    Raises:
        UserError: the images differ by more than the precision explains.
        Cancelled: the token is cancelled.
    """
    if not base:
        return "No images were compared: the base is not on this computer."
    needed, free = bytes_needed(source.original), psutil.virtual_memory().available
    if needed > free:
        return (
            f"No images were compared: this needs {format_bytes(needed)} of memory, and {format_bytes(free)} are free."
        )
    try:
        drawing = Comparison(family, base)
    except UserError as error:
        return f"No images were compared: {error.what} {error.why}"
    first = drawing.draw(net_of(source.config, source.original), token)
    second = drawing.draw(net_of(source.config, source.whole(tensors, name)), token)
    difference = float(np.abs(first.astype(int) - second).mean())
    exact = (source.base is None or source.trained_as_lora) and not measured(source.precision)
    if exact and difference > TOLERANCE[source.coarsest]:
        raise failed(
            f"the file draws a different image than the checkpoint (difference {difference:.1f} of 255 grey levels)"
        )
    if measured(source.precision):
        return f"The same seed draws images from both that differ by {difference:.2f} of 255 on average."
    return f"The same seed draws the same image from both (mean difference {difference:.2f} of 255)."


class Comparison:
    """A loaded base that draws the same small image with one net after another.

    Raises:
        UserError: the base cannot be loaded.
    """

    def __init__(
        self,
        family: Family,
        base: str,
        schedule: Mapping[str, Any] = MappingProxyType({}),
        of_text: Mapping[str, Mapping[str, torch.Tensor]] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            schedule: see ``Family.default_scheduler``.
            of_text: tensors of text encoders that a run has trained, by folder (``text_tensors``).
        """
        self._family, self._base, self._schedule = family, base, schedule
        self._text, self._negative = _encode(family, base, of_text)
        free_memory()
        self.denoiser: Any = family.load_denoiser(base, torch.float32)
        self._vae = family.load_vae(base)

    @torch.no_grad()
    def draw(self, net: Any = None, token: CancelToken | None = None) -> np.ndarray:
        """Draw a small image, uint8 RGB (SIDE, SIDE, 3).

        Args:
            net: fp32, with a white ring as control image; None: the base alone draws.
        """
        resident = {"denoiser": self.denoiser, "vae": None, "text_encoder": None, "tokenizer": None}
        net = net if net is not None else ZeroControlNet(self.denoiser)
        pipeline = self._family.pipeline(self._base, net, torch.float32, self._schedule, **resident)
        latents = draw_latents(
            self._family,
            pipeline,
            text=self._text,
            negative=self._negative,
            control=fit_control(ring(SIDE), SIDE, SIDE)[None],
            seeds=[0],
            options=SamplingOptions(steps=STEPS, guidance=3.0),
            control_vae=self._vae,
            token=token,
        )
        return np.asarray(decode(self._family, self._vae, latents, token)[0])


@torch.no_grad()
def _encode(family: Family, base: str, trained: Mapping[str, Mapping[str, torch.Tensor]]) -> tuple[Text, Text]:
    """Embeddings of a prompt and of the empty prompt. The text encoder is freed afterwards."""
    tokenizer, encoder = family.load_tokenizer(base), family.load_text_encoder(base, torch.float32)
    encoders = parts_by_folder(family, "text_encoder", encoder) if trained else {}
    for part, tensors in trained.items():
        load_text_tensors(encoders[part], tensors)
    return family.encode_text(tokenizer, encoder, ["a red circle"]), family.encode_text(tokenizer, encoder, [""])


def ring(side: int) -> np.ndarray:
    """A white ring on black, uint8 RGB (side, side, 3)."""
    ys, xs = np.mgrid[:side, :side]
    on = np.abs(np.hypot(xs - side / 2, ys - side / 2) - side / 3) < side / 40
    return np.repeat(on[..., None] * np.uint8(255), 3, axis=2)
