"""Settings of torch for the time of a run: one order of additions, TF32, and cuDNN's search for fast convolutions.

torch has them for the whole process. So they are restored when the run ends: Try it and the next run set their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from engine.config import TrainConfig
from engine.machine.capabilities import capabilities
from engine.machine.device import matmul_settings, torch_device

NO_SUCH_KERNEL = ("does not have a deterministic implementation", "is not deterministic because it uses CuBLAS")
"""In the errors that torch raises in strict mode (ATen/Context.cpp). The second: CUBLAS_WORKSPACE_CONFIG asks for
another workspace than ``engine.machine.environment`` does."""


@contextmanager
def for_a_run(train: TrainConfig) -> Iterator[None]:
    """Apply a run's torch settings within the block, and restore the earlier ones afterwards."""
    with ExitStack() as stack:
        if train.deterministic:
            _until_the_end(stack, *_deterministic())
            _set(stack, torch.utils.deterministic, "fill_uninitialized_memory", False)  # torch's aid for finding bugs
            _set(stack, torch.backends.cudnn, "deterministic", True)
        _set(stack, torch.backends.cudnn, "benchmark", train.cudnn_benchmark and not train.deterministic)
        # Only with a card that has it: torch keeps this setting together with one of the processor's.
        if train.precision == "fp32" and train.allow_tf32 and capabilities(torch_device().type).tf32:
            _set(stack, matmul_settings(), "allow_tf32", True)
        yield


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute matrix products in full fp32, for results that other runs reuse, such as the cache."""
    with ExitStack() as stack:
        _set(stack, matmul_settings(), "allow_tf32", False)
        yield


@contextmanager
def strictly_deterministic(wanted: bool) -> Iterator[None]:
    """Within the block an operation that has no deterministic kernel raises a RuntimeError (`has_no_kernel`).

    Outside of it (`for_a_run`) such an operation only warns, and images, scores and checks may use any. But then the
    backward pass of flash and memory-efficient attention stays in its usual form, which adds in any order:
    only strict mode makes torch take the other (ATen/native/transformers/cuda/attention_backward.cu).
    """
    if not wanted:
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


def has_no_kernel(error: BaseException) -> bool:
    """Whether an operation failed only because it has no deterministic form."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_SUCH_KERNEL)


def _deterministic() -> tuple[Callable[[], None], Callable[[], None]]:
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        lambda: torch.use_deterministic_algorithms(enabled, warn_only=warn_only),
    )


def _set(stack: ExitStack, place: Any, name: str, value: bool) -> None:
    before = getattr(place, name)
    _until_the_end(stack, lambda: setattr(place, name, value), lambda: setattr(place, name, before))


def _until_the_end(stack: ExitStack, switch: Callable[[], None], back: Callable[[], None]) -> None:
    stack.callback(back)
    switch()
