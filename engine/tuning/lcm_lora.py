"""A LoRA that draws in a few steps (LCM-LoRA), beside a frozen base and, if wanted, a frozen ControlNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.errors import UserError
from engine.families.base import Family
from engine.nets.reading import net_sha256
from engine.runs.checkpoints import list_checkpoints
from engine.tuning.base_lora import BaseLora
from engine.tuning.trainable import Placement


class LcmLora(BaseLora):
    """Teacher and student are one denoiser: without the factors, and with them. Both draw under the same ControlNet.

    Its files are a LoRA's. The ControlNet is in none of them: it is not changed.
    """

    def __init__(
        self,
        denoiser: Any,
        place: Placement,
        config: RunConfig,
        family: Family,
        net: Any = None,
        file: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            denoiser: in the placement's dtype, where it computes.
            net: a ControlNet in fp32; None: the LoRA is for the base alone.
            file: of the net (``describe_net``).
        """
        super().__init__(denoiser, place, config, family)
        self._net, self._file = net, dict(file or {})
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
        lcm = {"steps": self._steps, "with_net": self._net is not None} | ({"net": self._file} if self._file else {})
        return {**super().description(precision), "lcm": lcm}


def describe_net(path: str) -> dict[str, str]:
    """Name and SHA-256 of a ControlNet's file or folder, for checkpoints and model cards.

    Raises:
        UserError: it is not there.
    """
    return {"file": Path(path).name, "sha256": net_sha256(path)}


def require_same_net(run_folder: Path, path: str) -> None:
    """Refuse to go on under another ControlNet than the one of the run's checkpoints.

    Checkpoints of earlier versions do not say which one it was.

    Raises:
        UserError: the file is gone, or was exchanged.
    """
    found = [one.about.get("lcm", {}).get("net") for one in list_checkpoints(run_folder)]
    if found and found[-1] and found[-1]["sha256"] != net_sha256(path):
        raise UserError(
            f"The run cannot be resumed under {Path(path).name}.",
            "This file has been exchanged since the last checkpoint: the LoRA was distilled under a ControlNet with "
            f"the SHA-256 {found[-1]['sha256'][:10]}.",
            "Put that file back, or start a new run under the present one.",
        )
