"""The prediction of a training step computed by JAX: the same torch modules, compiled by jax.jit through torchax.

All else of a step stays torch's: batches, random numbers, loss, clipping, optimizer, EMA. A checkpoint is therefore the
same with both backends, and a run may be resumed with the other one. JAX is imported inside of functions only.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverloadPacket
from torch.func import functional_call

from engine.errors import UserError
from engine.families.base import Family
from engine.jobs.events import Message
from engine.jobs.runner import Emit

REQUIREMENTS = "requirements-jax.txt"
NOT_STARTED = "The run was not started with JAX."
WITH_TORCH = "Set train.backend to torch."
OLD_TORCHAX = "0.0.13"
"""The last version that names overloads which torch 2.13 no longer has."""


def check_jax(device: torch.device, processes: int) -> None:
    """Refuse a run that JAX cannot train here; settings that it cannot train with are refused by ``RunConfig``.

    Args:
        device: where torch computes.

    Raises:
        UserError: JAX is missing, torch computes on a graphics card, or several processes train.
    """
    missing = [name for name in ("jax", "torchax") if importlib.util.find_spec(name) is None]
    if missing:
        how = f"Install them with: pip install -r {REQUIREMENTS}. Or set train.backend to torch."
        raise UserError(NOT_STARTED, f"These packages are not installed: {', '.join(missing)}.", how)
    if processes > 1:
        raise UserError(NOT_STARTED, f"{processes} processes share this run, and JAX trains in one.", WITH_TORCH)
    if device.type != "cpu":
        why = "torch computes on the graphics card here, which is faster than both together."
        raise UserError(NOT_STARTED, why, WITH_TORCH)


@cache
def load_jax() -> tuple[Any, Any, Any]:
    """The modules jax, torchax and torchax.interop, ready for this version of torch."""
    jax = importlib.import_module("jax")
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with _missing_overloads():
        torchax = importlib.import_module("torchax")
        torchax.default_env()  # makes the table of operators
    torch.backends.mha.set_fastpath_enabled(fast_path)  # torchax switches it off for the whole process
    # Diffusers asks for 64-bit whole numbers, for which JAX takes 32 bits.
    warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
    return jax, torchax, importlib.import_module("torchax.interop")


@contextmanager
def _missing_overloads() -> Iterator[None]:
    """Within the block, an overload that torch does not have is an empty object: no operator is ever found under it.

    torchax 0.0.13 lists the overloads for named tensors, which torch 2.13 has removed; its next version does not
    (https://github.com/google/torchax/pull/102).
    """
    found: Any = OpOverloadPacket.__getattr__

    def overload(packet: Any, name: str) -> Any:
        try:
            return found(packet, name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return object()

    OpOverloadPacket.__getattr__ = overload
    try:
        yield
    finally:
        OpOverloadPacket.__getattr__ = found


class _Nets(nn.Module):
    """Both nets as one module, so that all weights can be passed to a call of it."""

    def __init__(self, family: Family, denoiser: Any, net: Any) -> None:
        super().__init__()
        self.family, self.denoiser, self.net = family, denoiser, net

    def forward(self, *inputs: Any) -> torch.Tensor:
        return self.family.predict(self.denoiser, self.net, *inputs)


class JaxPrediction:
    """``Family.predict`` for a frozen denoiser and a ControlNet that is trained, computed by JAX.

    Each size of images is compiled once, when it comes first. The weights that are trained go to JAX at each call and
    their gradients come back; on a processor both share the memory. The frozen ones go there once.
    """

    def __init__(self, family: Family, denoiser: Any, net: Any, emit: Emit) -> None:
        self._jax, self._torchax, self._interop = load_jax()
        self._nets, self._emit = _Nets(family, denoiser, net), emit
        named = dict(self._nets.named_parameters())
        self._learned = {name: weight for name, weight in named.items() if weight.requires_grad}
        rest = {name: weight for name, weight in named.items() if name not in self._learned}
        self._frozen = self._to_jax(rest | dict(self._nets.named_buffers()))
        self._seen: set[tuple[int, ...]] = set()

        def predict(learned: Any, frozen: Any, inputs: Any) -> Any:
            return self._jax.vjp(lambda learned: self._predicted(learned, frozen, inputs), learned)

        self._forward = self._jax.jit(predict)
        self._backward = self._jax.jit(lambda gradients_of, gradient: gradients_of(gradient)[0])

    def __call__(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: dict[str, torch.Tensor],
        control: torch.Tensor | None,
    ) -> torch.Tensor:
        """As ``Family.predict``, with the nets that it was made with. Gradients reach the weights that are trained.

        Raises:
            UserError: memory ran out; settings that need less of it are torch's.
        """
        if tuple(noisy.shape) not in self._seen:
            self._seen.add(tuple(noisy.shape))
            size = f"{noisy.shape[0]} x {noisy.shape[-1]} x {noisy.shape[-2]}"
            self._emit(Message(f"JAX compiles the step for latents of {size}. This takes a minute or more, once."))
        predicted: torch.Tensor = _Prediction.apply(
            self, (noisy, timesteps.int(), text, control), *self._learned.values()
        )
        return predicted

    def forward(self, inputs: Any, weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Any]:
        """The prediction, and what ``gradients`` needs of it."""
        learned = dict(zip(self._learned, weights, strict=True))
        with memory_in_words():
            predicted, gradients_of = self._forward(self._to_jax(learned), self._frozen, self._to_jax(inputs))
            return self._to_torch(predicted), gradients_of

    def gradients(self, gradients_of: Any, gradient: torch.Tensor) -> list[torch.Tensor]:
        """The gradients of the weights, in the order of ``forward``. ``gradient``: of the prediction."""
        with memory_in_words():
            found = self._backward(gradients_of, self._to_jax(gradient))
            return [self._to_torch(found[name]) for name in self._learned]

    def _predicted(self, learned: Any, frozen: Any, inputs: Any) -> Any:
        """The prediction as a function of JAX's arrays, which jax.jit traces."""
        weights, given = self._interop.torch_view((learned | frozen, inputs))
        with self._torchax.default_env(), torch.no_grad():  # JAX differentiates
            return self._interop.jax_view(functional_call(self._nets, weights, given, tie_weights=False))

    def _to_jax(self, tensors: Any) -> Any:
        """Tensors, in whatever structure, as arrays on JAX's first device."""
        device = self._jax.devices()[0]

        def array(tensor: torch.Tensor) -> Any:
            return self._jax.device_put(self._jax.numpy.from_dlpack(tensor.detach().contiguous()), device)

        return self._jax.tree_util.tree_map(array, tensors)

    def _to_torch(self, array: Any) -> torch.Tensor:
        """An array as a tensor of its own: torch changes gradients in place, and JAX's arrays never change."""
        return torch.from_dlpack(self._jax.device_put(array, self._jax.devices("cpu")[0])).clone()


class _Prediction(torch.autograd.Function):
    """Lets torch's backward pass go through JAX."""

    @staticmethod
    def forward(ctx: Any, jax: JaxPrediction, inputs: Any, *weights: torch.Tensor) -> torch.Tensor:
        ctx.jax = jax
        predicted, ctx.gradients_of = jax.forward(inputs, weights)
        return predicted

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> Any:
        return None, None, *ctx.jax.gradients(ctx.gradients_of, gradient[0])


@contextmanager
def memory_in_words() -> Iterator[None]:
    """Turn JAX's error for memory that ran out into one for people."""
    failed: Callable[..., Any] = load_jax()[0].errors.JaxRuntimeError
    try:
        yield
    except failed as error:  # type: ignore[misc]
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            "JAX ran out of memory.",
            "With train.backend jax no settings are changed by themselves to save memory.",
            "Resume with a smaller batch, or with train.backend torch.",
        ) from error
