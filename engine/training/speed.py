"""What may make steps faster and changes nothing that is learnt but its rounding. Each part can fail without harm.

Attention by xformers, tensors with their channels last, and nets compiled by torch (with CUDA graphs, where wanted).
What this machine cannot do is told in one line, and the run goes on without it.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import UserError
from engine.jobs.events import Message
from engine.machine.errors import is_device_lost, is_out_of_memory

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

MODES = {"kernels": "default", "graphs": "reduce-overhead"}
"""``train.compile`` in torch's words."""


def lay_out(trainer: Trainer) -> None:
    """Attention and channels last, as the settings say; once, when the nets are where they compute."""
    train = trainer.config.train
    if train.attention == "xformers":
        _use_xformers(trainer)
    if train.channels_last:
        trainer.unet.to(memory_format=torch.channels_last)
        if trainer.nets.apart:  # else it is the net that learns, whose files and optimizer keep the usual order
            trainer.nets.controlnet.to(memory_format=torch.channels_last)


def _use_xformers(trainer: Trainer) -> None:
    why = ""
    if trainer.device.type != "cuda":
        why = "it computes on graphics cards only"
    elif importlib.util.find_spec("xformers") is None:
        why = "it is not installed"
    else:
        nets = (trainer.unet, trainer.nets.controlnet)
        before = [dict(net.attn_processors) for net in nets]
        try:
            for net in nets:
                net.enable_xformers_memory_efficient_attention()
        except Exception as error:  # built for another torch or card, which it finds out in many ways
            for net, processors in zip(nets, before, strict=True):
                net.set_attn_processor(processors)
            why = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else 'it does not work'}"
    if why:
        _tell(trainer, f"xformers is not used ({why}); attention is PyTorch's own.")


def compile_nets(trainer: Trainer) -> None:
    """What the step calls becomes compiled; images and checks go on with the plain nets, as their sizes differ."""
    wanted = trainer.config.train.compile
    if wanted == "none":
        return
    if wanted == "graphs" and trainer.device.type != "cuda":
        _tell(trainer, "There is no graphics card to replay steps (CUDA graphs); the nets are compiled only.")
        wanted = "kernels"
    if trainer.processes.count > 1:
        _tell(trainer, "The nets are not compiled: several processes share this run.")
        return
    try:
        trainer.model, trainer.stepping_unet = (
            torch.compile(net, mode=MODES[wanted]) for net in (trainer.model, trainer.unet)
        )
    except Exception as error:  # of Python's version or of the system's; the rest shows at the first step
        _go_on_plain(trainer, error)


def begin_step(trainer: Trainer) -> None:
    """CUDA graphs may use the memory of the batch before again from here on."""
    if trainer.config.train.compile == "graphs" and is_compiled(trainer):
        torch.compiler.cudagraph_mark_step_begin()


def is_compiled(trainer: Trainer) -> bool:
    return trainer.stepping_unet is not trainer.unet


def gave_up(trainer: Trainer, error: BaseException) -> bool:
    """Whether a fault of a step may be the compiler's: then the nets are plain from now on, and the step is retried."""
    if not is_compiled(trainer) or isinstance(error, UserError) or is_device_lost(error) or is_out_of_memory(error):
        return False
    _go_on_plain(trainer, error)
    return True


def _go_on_plain(trainer: Trainer, error: BaseException) -> None:
    trainer.model = getattr(trainer.model, "_orig_mod", trainer.model)
    trainer.stepping_unet = trainer.unet
    words = str(error).strip().splitlines()
    why = f"{type(error).__name__}: {words[0][:120]}" if words else type(error).__name__
    _tell(trainer, f"The nets could not be compiled ({why}); the run goes on without.")


def _tell(trainer: Any, words: str) -> None:
    trainer.emit(Message(words, "warning"))
