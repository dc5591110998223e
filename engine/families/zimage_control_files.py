"""The files of a ControlNet for Z-Image: diffusers' names, which ComfyUI reads, too. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import UserError
from engine.families.control_files import ControlFiles, T, incomplete
from engine.families.zimage_sizes import BASE_LAYERS, LAYOUTS, UNUSED_CHANNELS, control_places


class ZImageControlFiles(ControlFiles):
    """diffusers' ``ZImageControlNetModel``, without the denoiser's layers that it shares."""

    trigger = "control_all_x_embedder.2-1.weight"
    config_mark = "control_layers_places"
    same_as_base = {"dim": "the width of its layers", "n_refiner_layers": "the number of its refiners"}
    own_entries = (
        "control_layers_places",
        "control_refiner_layers_places",
        "control_in_dim",
        "add_control_noise_refiner",
    )

    def control_channels(self, config: Mapping[str, Any]) -> int:
        """Those for inpainting, which are zeros, do not count."""
        read = int(config["control_in_dim"])
        return read - UNUSED_CHANNELS if read > UNUSED_CHANNELS else read

    def blocks(self, config: Mapping[str, Any]) -> tuple[int, int]:
        return len(config["control_layers_places"]), 0

    def why_misread(self, shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> str:
        """ComfyUI tells three layouts apart by the number of layers (``comfy_extras/nodes_model_patch.py``)."""
        layers = len(config["control_layers_places"])
        found = int(config["control_in_dim"]), config["add_control_noise_refiner"] is not None
        if self.trigger not in shapes:
            return "ComfyUI treats it as another kind of net"
        if LAYOUTS.get(layers) != found:
            return f"ComfyUI supports no net of {layers} layers that reads {found[0]} channels"
        return ""

    def plain_names(self, format: str, tensors: Mapping[str, T]) -> dict[str, T]:
        """
        Raises:
            UserError: version 2.0 of the published net. Its refiners were never trained; programs that know it run its
                first layers in their place.
        """
        silent: Any = tensors.get("control_noise_refiner.0.after_proj.weight")
        if "control_layers.14.after_proj.weight" in tensors and hasattr(silent, "any") and not bool(silent.any()):
            raise UserError(
                "This ControlNet cannot be used.",
                "Its refiners are zero, as in version 2.0 of Z-Image-Turbo-Fun-Controlnet-Union.",
                "Choose version 2.1.",
            )
        return dict(tensors)

    def config_from_shapes(self, shapes: Mapping[str, Sequence[int]], name: str) -> dict[str, Any]:
        try:
            layers, refiners = (
                next(n for n in itertools.count() if f"{part}.{n}.attention.to_q.weight" not in shapes)
                for part in ("control_layers", "control_noise_refiner")
            )
            width, read = shapes[self.trigger]
            adds = "control_noise_refiner.0.after_proj.weight" in shapes
            return {
                "control_layers_places": control_places(BASE_LAYERS, layers),
                "control_refiner_layers_places": list(range(refiners)),
                "control_in_dim": read // 4,
                "add_control_noise_refiner": "control_noise_refiner" if adds else None,
                "n_refiner_layers": refiners,
                "dim": width,
            }
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            raise incomplete(name, error) from error


ZIMAGE_FILES = ZImageControlFiles()
