"""The nets that a step calls: as the processes share them, and compiled where the settings ask for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class StepNets:
    """Previews and loss checks call the plain nets instead (``TrainState.denoiser``, ``Trainable.control_net``)."""

    net: Any = None
    """The control net; None where the denoiser alone computes."""
    denoiser: Any = None
    blocks: list[Any] = field(default_factory=list)
    """Parts of the plain nets that are compiled in place."""
    predict: Callable[..., Any] | None = None
    """What predicts with the nets in place of the family's ``predict``, such as JAX; None: that itself does."""
    _plain: tuple[Any, Any] = (None, None)

    def use(self, net: Any, denoiser: Any) -> None:
        """Set the nets that steps call, already wrapped for several processes."""
        self._plain = self.net, self.denoiser = net, denoiser

    def use_compiled(self, net: Any, denoiser: Any) -> None:
        """Set the compiled nets that steps call until ``use_plain``."""
        self.net, self.denoiser = net, denoiser

    def use_compiled_blocks(self, blocks: list[Any]) -> None:
        """Note the parts that are compiled in place, until ``use_plain``."""
        self.blocks = blocks

    def predict_with(self, predict: Callable[..., Any]) -> None:
        """Set what predicts with the nets. Called once, before the first step."""
        self.predict = predict

    def use_plain(self) -> None:
        """Go back to the nets of ``use``, without compiled blocks."""
        self.net, self.denoiser = self._plain
        for block in self.blocks:
            block._compiled_call_impl = None  # what Module.compile sets
        self.blocks = []

    @property
    def compiled(self) -> bool:
        """Whether steps call compiled nets or blocks."""
        return bool(self.blocks) or self.denoiser is not self._plain[1]
