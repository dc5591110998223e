"""A LoRA that draws in a few steps (LCM-LoRA), beside a frozen base and, if wanted, a frozen ControlNet."""

from __future__ import annotations

from typing import Any

from engine.config import RunConfig
from engine.families.base import Family
from engine.tuning.base_lora import BaseLora
from engine.tuning.trainable import Placement


class LcmLora(BaseLora):
    """Teacher and student are one denoiser: without the factors, and with them. Both draw under the same ControlNet.

    Its files are a LoRA's. The ControlNet is in none of them: it is not changed.
    """

    def __init__(self, denoiser: Any, place: Placement, config: RunConfig, family: Family, net: Any = None) -> None:
        """
        Args:
            denoiser: in the placement's dtype, where it computes.
            net: a ControlNet in fp32; None: the LoRA is for the base alone.
        """
        super().__init__(denoiser, place, config, family)
        self._net = net
        if net is not None:
            net.requires_grad_(False).eval().to(device=place.device, dtype=place.dtype)
        self._steps = config.tuning.lcm_steps

    @property
    def control_net(self) -> Any:
        return self._net

    @property
    def nets(self) -> list[Any]:
        return [] if self._net is None else [self._net]

    def nets_of_step(self, wrapped: Any, denoiser: Any) -> tuple[Any, Any]:
        return self._net, wrapped

    def description(self, precision: str) -> dict[str, Any]:
        return {**super().description(precision), "lcm": {"steps": self._steps, "with_net": self._net is not None}}
