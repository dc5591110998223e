"""Optional speed-ups: attention by xformers, channels-last tensors, torch.compile, CUDA graphs.

They change nothing but rounding. If this machine does not support one, a line in the log says so and the run continues
without it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo

from engine.errors import UserError
from engine.jobs.events import Message
from engine.machine.errors import is_device_lost, is_out_of_memory
from engine.nets import compiled_adamw
from engine.nets.compiled_adamw import CompiledAdamW
from engine.training.state import TrainState

MODES = {"kernels": "default", "graphs": "reduce-overhead"}
"""``train.compile`` -> torch.compile's mode."""
BACKEND = "inductor"
BLOCK_VERSIONS = 64
"""Of a compiled block: for each width, size and precision, frozen or not. torch's usual limit is 8."""


def set_attention_and_layout(state: TrainState) -> None:
    """Apply the settings for attention and memory format. Called once, when the nets are on their device."""
    train, trainable = state.config.train, state.trainable
    if train.attention == "xformers":
        _use_xformers(state)
    if train.channels_last:
        state.denoiser.to(memory_format=torch.channels_last)
        if trainable.weights.separate:  # else they are master nets, whose files and optimizer keep the usual format
            for net in trainable.nets:
                net.to(memory_format=torch.channels_last)


def _use_xformers(state: TrainState) -> None:
    why = ""
    if not state.capabilities.xformers:
        why = "it runs only on NVIDIA graphics cards"
    elif importlib.util.find_spec("xformers") is None:
        why = "it is not installed"
    else:
        nets = (state.denoiser, *state.trainable.nets)
        before = [dict(net.attn_processors) for net in nets]
        try:
            for net in nets:
                net.enable_xformers_memory_efficient_attention()
        except Exception as error:  # a build for another torch or card fails in many ways
            for net, processors in zip(nets, before, strict=True):
                net.set_attn_processor(processors)
            why = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else 'it does not work'}"
    if why:
        _warn(state, f"xformers is not used ({why}); PyTorch's own attention is used.")


def compile_nets(state: TrainState) -> None:
    """Compile the nets that a step calls, or blocks in them. Not for previews and loss checks, whose shapes differ."""
    mode = state.config.train.compile
    if mode == "none":
        return
    if mode == "graphs" and not state.capabilities.graphs:
        _warn(state, "CUDA graphs need an NVIDIA or AMD graphics card; the nets are compiled without them.")
        mode = "kernels"
    if why := state.parallel.not_compiled:
        _warn(state, f"The nets are not compiled: {why}.")
        return

    def compiled(net: Any) -> Any:
        return None if net is None else torch.compile(net, mode=MODES[mode])

    try:
        if mode == "blocks":
            _compile_blocks(state)
            return
        state.nets.use_compiled(compiled(state.nets.net), compiled(state.nets.denoiser))
    except Exception as error:  # torch rejects this Python or system; the compiler fails at the first step
        _use_plain_nets(state, error)


def compile_update(state: TrainState) -> None:
    """Let the weights be updated in one compiled pass, if the settings ask for it and the run is one that can."""
    config, optim, weights = state.config, state.config.optim, state.trainable.weights
    if not optim.one_pass_update:
        return
    reasons = (
        (optim.optimizer != "adamw", "it is for the optimizer adamw"),
        (state.dtype == torch.float32, "it is for runs in fp16 or bf16"),
        (not weights.updated_at_once, "the master weights are not kept whole"),
        (optim.offload, "the master weights are in RAM"),
        (optim.in_backward, "weights are updated in the backward pass"),
        (config.train.accumulation > 1, "gradients are added up"),
        (not weights.keeps_half_gradients, "gradients are not in half precision until the update"),
    )
    if why := next((words for excluded, words in reasons if excluded), ""):
        _warn(state, f"Weights are not updated in one pass: {why}.")
        return

    def failed(error: BaseException) -> None:
        _warn(state, f"The update could not be compiled ({_in_short(error)}); PyTorch's own is used.")

    adamw: Any = state.optimizer
    weights.use_compiled_adamw(CompiledAdamW(adamw, compiled_adamw.compiled(), failed))


def _compile_blocks(state: TrainState) -> None:
    """Compile the blocks that a net repeats, in place ("regional compilation", see diffusers' compile_repeated_blocks).

    diffusers knows which they are for a denoiser; a control net begins as a copy of it.
    """
    kinds = getattr(state.denoiser, "_repeated_blocks", None) or ()
    nets = [net for net in (state.nets.net, state.nets.denoiser) if net is not None]
    blocks = [block for net in nets for block in net.modules() if _is_one_of(block, kinds)]
    if not blocks:
        _warn(state, "The nets are not compiled: diffusers lists no repeated blocks for this base.")
        return
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, BLOCK_VERSIONS)
    for block in blocks:
        block.compile(backend=BACKEND, dynamic=False)
    state.nets.use_compiled_blocks(blocks)


def _is_one_of(block: Any, kinds: Sequence[str]) -> bool:
    return any(kind.__name__ in kinds for kind in type(block).__mro__)


@contextmanager
def uncompiled(state: TrainState) -> Iterator[None]:
    """Within the block, nothing is compiled and nothing compiled is used: for what follows a step."""
    if not state.nets.blocks:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def mark_cuda_graph_step(state: TrainState) -> None:
    """Before each micro-batch: CUDA graphs may reuse the memory of the previous one. Does nothing without them."""
    if state.config.train.compile == "graphs" and is_compiled(state):
        torch.compiler.cudagraph_mark_step_begin()


def is_compiled(state: TrainState) -> bool:
    """Whether steps call compiled nets at the moment."""
    return state.nets.compiled


def go_on_uncompiled(state: TrainState, error: BaseException) -> bool:
    """Switch to the plain nets if the compiler may have caused a step's error. Returns whether it did so."""
    if not is_compiled(state) or isinstance(error, UserError) or is_device_lost(error) or is_out_of_memory(error):
        return False
    _use_plain_nets(state, error)
    return True


def _use_plain_nets(state: TrainState, error: BaseException) -> None:
    state.nets.use_plain()
    _warn(state, f"The nets could not be compiled ({_in_short(error)}); the run continues uncompiled.")


def _in_short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _warn(state: TrainState, words: str) -> None:
    state.emit(Message(words, "warning"))
