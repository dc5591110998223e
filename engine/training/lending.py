"""A run in progress works for its owner between two steps, with the models that it has in memory.

Nothing that is lent is changed for good: the run goes on as if nobody had come, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.families import Family
from engine.jobs.events import PhaseChanged
from engine.sampling import free_memory
from engine.training.ema import averaged_weights
from engine.training.scope import decoder_of

if TYPE_CHECKING:
    from engine.training.trainer import Trainer


@dataclass(frozen=True)
class Lent:
    """What a run lends. The nets are its own: use them without gradients and change no weight."""

    run_folder: Path
    step: int
    base: str
    """As ``Workspace.locate_base`` gives it."""
    family: Family
    unet: Any
    controlnet: Any
    """The one that learns, in evaluation mode, with the weights that an export would have (the average, if any)."""
    device: torch.device
    dtype: torch.dtype
    """The UNet's."""


def serve_visits(trainer: Trainer) -> None:
    """Do what was asked of the run meanwhile; call between two steps."""
    while trainer.accelerator.is_main_process and (visit := trainer.token.take_visit()) is not None:
        trainer.emit(PhaseChanged("lending"))
        with lent(trainer) as models:
            visit.serve(models, trainer.token)
        free_memory()
        trainer.emit(PhaseChanged("running"))


@contextmanager
def lent(trainer: Trainer) -> Iterator[Lent]:
    """The run's models for a while; random state, modes and weights are put back afterwards."""
    net, unet = trainer.controlnet, trainer.unet
    training = net.training
    average = averaged_weights(trainer.ema, net) if trainer.ema is not None else nullcontext()
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), average, _decoder_kept(trainer):
        net.eval()
        try:
            yield Lent(
                trainer.run_folder, trainer.step, trainer.base, trainer.family, unet, net, trainer.device, unet.dtype
            )
        finally:
            net.train(training)


@contextmanager
def _decoder_kept(trainer: Trainer) -> Iterator[None]:
    """Of a base that learns, too: checkpoints bring a decoder of their own, and the run gets its own back."""
    if trainer.decoder is None:
        yield
        return
    decoder = decoder_of(trainer.unet)
    kept = {name: weight.detach().cpu().clone() for name, weight in decoder.state_dict().items()}
    try:
        yield
    finally:
        decoder.load_state_dict(kept)
