"""Builds a net with some weights on the meta device, since they are replaced: 5 GB of an XL ControlNet in fp32."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from engine.machine.net_lock import NET_LOCK

NO_OP = ".*copying from a non-meta parameter"
"""torch's warning when weights are loaded into a net that has them on the meta device."""


def build_with_meta_weights(make: Callable[[], Any], on_meta: Callable[[str, Any], bool]) -> Any:
    """The net that ``make`` builds, with some weights of linear layers and convolutions on the meta device only.

    Each of these is allocated while its own layer is initialized, but never together with the others. Random numbers
    are drawn for them all the same, so that all other weights have the bits that they have in a whole net.

    Args:
        make: builds the net, the same each time; called twice.
        on_meta: whether a layer's weight stays on the meta device, given its name and the layer.
    """
    with NET_LOCK:  # two threads that follow their layers would give them back in the wrong order
        return _build(make, on_meta)


def _build(make: Callable[[], Any], on_meta: Callable[[str, Any], bool]) -> Any:
    layers: list[Any] = []
    # The device counts for this thread alone. accelerate's ``init_empty_weights`` would change every thread's nets.
    with torch.device("meta"), _initialized(layers.append), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=NO_OP)
        names = {id(layer): name for name, layer in make().named_modules()}
    wanted = [id(one) in names and on_meta(names[id(one)], one) for one in layers]
    numbers = iter(wanted)

    def drop_weight(layer: Any) -> None:
        if next(numbers):
            layer.weight = nn.Parameter(layer.weight.detach().to("meta"))

    with _initialized(drop_weight), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=NO_OP)
        return make()


@contextmanager
def _initialized(then: Callable[[Any], object]) -> Iterator[None]:
    """Within the block, call this with each linear layer and convolution that this thread makes, once it has values."""
    thread = threading.get_ident()

    def followed(reset: Callable[[Any], None]) -> Callable[[Any], None]:
        def reset_parameters(layer: Any) -> None:
            reset(layer)
            if threading.get_ident() == thread:
                then(layer)

        return reset_parameters

    own = {kind: kind.reset_parameters for kind in (nn.Linear, _ConvNd)}
    try:
        for kind, reset in own.items():
            kind.reset_parameters = followed(reset)  # type: ignore[method-assign]
        yield
    finally:
        for kind, reset in own.items():
            kind.reset_parameters = reset  # type: ignore[method-assign]


def materialize(net: Any) -> None:
    """Allocate weights that are on the meta device, in place, uninitialized: for a net that is loaded next."""
    for module in net.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                values = torch.empty_like(weight, device=torch.get_default_device())
                setattr(module, name, nn.Parameter(values, weight.requires_grad))
