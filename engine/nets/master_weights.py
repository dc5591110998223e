"""fp32 master weights, and the copy of them that computes.

Updates of 1e-5 are smaller than what half precision can add to a weight. So the optimizer updates fp32 master weights,
the compute copy is refreshed after each step, and its gradients are accumulated in fp32 (Micikevicius et al. 2017,
arXiv 1710.03740, section 3.1). Nothing runs under autocast: no weight is cast at every use, and norms return the run's
precision (their kernels accumulate in fp32). In an fp32 run master and copy are the same net.

``compact_weights.py`` keeps master weights in fewer bytes. Or master weights, gradients and optimizer stay in RAM, with
only the compute copy on the card: 2 bytes per weight there in place of 18 (Ren et al. 2021, "ZeRO-Offload", arXiv
2101.06840).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from engine.nets.compiled_adamw import CompiledAdamW
from engine.nets.lora import lora_layers
from engine.nets.offload import Offload


class MasterWeightSync:
    """Keeps a net's fp32 master weights and its compute copy in sync: gradients go one way, updates the other."""

    def __init__(
        self, master: Any, dtype: torch.dtype, device: torch.device | None = None, compute: Any | None = None
    ) -> None:
        """
        Args:
            master: the net that the optimizer updates, fp32. Weights that belong to the base are in ``dtype`` already.
            dtype: what to compute in.
            device: where to compute, if not where the master weights are (those are in RAM then).
            compute: a copy in ``dtype`` that is there already, or the master net itself; None: a copy is made where one
                is needed.
        """
        self.master_of: dict[nn.Parameter, nn.Parameter] = {}
        """Compute parameter -> master parameter. Empty where both are the same net."""
        self.stale = False
        """The copy is not up to date: memory ran out while it was refreshed."""
        if compute is None:
            compute = master if dtype == torch.float32 and device is None else compute_copy(master, dtype, device)
        self.separate = compute is not master
        """Master and copy are two nets."""
        self.compute: Any = compute
        """The net that computes."""
        self.offload = Offload()
        """Copies between RAM and a card that are under way."""
        self._sent: set[nn.Parameter] = set()  # of the masters: their copies are up to date already
        if self.separate:
            self.link(self.compute, master)

    def link(self, compute: nn.Module, master: nn.Module) -> None:
        """Send gradients of ``compute`` to ``master`` from now on, and updates back. Frozen weights are left out.

        A gradient is transferred, and freed, as soon as it is complete.
        """
        for one, other in zip(compute.parameters(), master.parameters(), strict=True):
            if one is other or not other.requires_grad:
                continue
            self.master_of[one] = other
            # Without a reference to this object, whose nets the garbage collector would have to find.
            one.register_post_accumulate_grad_hook(self._gradient_hook(other))

    def _gradient_hook(self, master: nn.Parameter) -> Callable[[torch.Tensor], None]:
        """Called with a parameter of the copy when its gradient is complete.

        It holds no reference to this object, whose nets the garbage collector would then have to find.
        """
        return lambda copy, offload=self.offload: _transfer_grad(copy, master, offload)  # type: ignore[misc]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master weights into the compute copy: after each step, and whenever they were changed."""
        pairs = [(copy, master) for copy, master in self.master_of.items() if master not in self._sent]
        self._sent.clear()
        if pairs and self.offload.overlaps(*pairs[0]):
            for copy, master in pairs:
                self.offload.send_weight(master.data, copy.data)
        elif pairs:
            copies, masters = zip(*pairs, strict=True)
            torch._foreach_copy_(copies, masters)
        self.stale = False

    @torch.no_grad()
    def send(self, masters: list[nn.Parameter]) -> None:
        """Copy some master weights from RAM to the card already; the next ``refresh`` leaves them out."""
        copies = {master: copy for copy, master in self.master_of.items()}
        for master in masters:
            if master in copies:
                self.offload.send_weight(master.data, copies[master].data)
                self._sent.add(master)

    def when_complete(self, masters: Iterable[nn.Parameter], call: Callable[[nn.Parameter], object]) -> None:
        """In every backward pass from now on, call this with each of these master weights once it has its gradient.

        Args:
            call: should hold no strong reference to the nets, which hold it.
        """
        copies, offload = {master: copy for copy, master in self.master_of.items()}, self.offload
        for master in masters:
            hook: Any = lambda copy, master=master: offload.afterwards(lambda: call(master))  # noqa: E731
            copies.get(master, master).register_post_accumulate_grad_hook(hook)

    def gradients(self, masters: list[nn.Parameter]) -> list[torch.Tensor]:
        """The complete gradients of some master weights, as they are kept until the next ``update``."""
        return [master.grad for master in masters if master.grad is not None]

    def finish_gradients(self) -> None:
        """Wait until the gradients of all master weights are complete: some may still be on their way to RAM."""
        self.offload.finish()

    def keep_half_gradients(self) -> None:
        """Keep half-precision gradients as they are until ``update``, unless they are added up.

        For one process: several exchange the fp32 gradients of the master weights.
        """

    @property
    def keeps_half_gradients(self) -> bool:
        """Whether half-precision gradients stay as they are until ``update``, unless they are added up."""
        return False

    def use_compiled_adamw(self, with_: CompiledAdamW | None) -> None:
        """From now on ``update`` updates weights and copies by this, where gradients are in half precision until then.

        Args:
            with_: None: no longer.
        """

    def widen_gradients(self) -> None:
        """Another micro-batch follows, whose gradients are added: sums are fp32."""

    def gradient_norm(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        """The total norm of the gradients.

        Args:
            parameters: that the optimizer updates.
        """
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def multiply_gradients(self, parameters: list[nn.Parameter], factor: float) -> None:
        """Multiply the gradients of these parameters, all that the optimizer updates, before the next ``update``."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients and factor != 1:
            torch._foreach_mul_(gradients, factor)

    @property
    def updated_at_once(self) -> bool:
        """Whether ``update`` hands the optimizer whole weights, which it may leave as they are."""
        return True

    def leave_out(self, masters: Iterable[nn.Parameter]) -> None:
        """Drop the gradients of these master weights, so that the next ``update`` leaves them as they are."""
        for master in masters:
            master.grad = None

    def update(self, step: Callable[[], object], number: int) -> None:
        """Update the master weights that have a gradient, all trained weights being among them.

        Args:
            step: the optimizer's.
            number: of the optimizer step in the run; random numbers come from it, where rounding needs some.
        """
        step()

    @contextmanager
    def whole_weights(self, changed: bool = False) -> Iterator[None]:
        """Within the block the parameters of the master net are whole fp32 weights, to be read; perhaps in RAM.

        Args:
            changed: they may be written to as well.
        """
        yield

    def read(self, masters: list[nn.Parameter]) -> list[torch.Tensor]:
        """The fp32 values of some master weights, where these are. Not to be written to."""
        return [master.detach() for master in masters]

    @property
    def can_split(self) -> bool:
        """Whether ``keep_split`` would save memory."""
        return False

    def keep_split(self) -> None:
        """From now on keep only the bits of the master weights that the compute copy lacks."""
        raise NotImplementedError

    def keep_whole(self, device: torch.device) -> None:
        """From now on the master weights are whole, on ``device``, unless they were already."""

    @contextmanager
    def computing_weights(self, of: list[nn.Parameter], tensors: list[torch.Tensor]) -> Iterator[Any]:
        """Within the block the compute copy has these weights instead of those of ``of``, some of the master's."""
        copies = {master: copy for copy, master in self.master_of.items()}
        try:
            with torch.no_grad():
                torch._foreach_copy_([copies[parameter] for parameter in of], tensors)
            yield self.compute
        finally:
            self.stale = True  # until it is refreshed; if that fails, the next step begins with it
            self.refresh()

    @contextmanager
    def computing_with(self, net: nn.Module) -> Iterator[Any]:
        """Within the block ``net`` is the one that computes."""
        before, self.compute = self.compute, net
        try:
            yield net
        finally:
            self.compute = before

    def drop_gradients(self) -> None:
        """Drop the compute copy's gradients: those of a failed step, and what is left of transferred ones."""
        self.offload.drop()
        for parameter in self.master_of:
            parameter.grad = None


def _transfer_grad(compute: torch.Tensor, master: torch.Tensor, offload: Offload) -> None:
    gradient, compute.grad = compute.grad, None
    if gradient is None:
        return
    if offload.overlaps(compute, master):
        offload.send_gradient(gradient, lambda arrived: _accumulate(arrived, master))
    else:
        _accumulate(gradient.to(master.device) if master.grad is not None else gradient, master)


def _accumulate(gradient: torch.Tensor, master: torch.Tensor) -> None:
    if master.grad is None:
        usual = torch.contiguous_format  # as the master weight; the compute copy may be channels last
        master.grad = gradient.to(master.device, master.dtype, memory_format=usual, copy=gradient.is_pinned())
    else:
        master.grad.add_(gradient)


def compute_copy(net: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """A copy with weights in ``dtype`` on ``device``. Weights that belong to the base stay the same tensors."""
    shared = {id(layer.weight) for layer in lora_layers(net).values()}
    replaced: dict[int, Any] = {}
    for parameter in net.parameters():
        if id(parameter) in shared:
            replaced[id(parameter)] = parameter
        else:
            moved = parameter.detach().to(device or parameter.device, dtype, copy=True)
            replaced[id(parameter)] = nn.Parameter(moved, parameter.requires_grad)
    return copy.deepcopy(net, replaced)
