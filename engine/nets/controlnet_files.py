"""A ControlNet on disk: find it, and check that it fits a base before any weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.disk.syntax import fault
from engine.errors import UserError
from engine.families.facts import FamilyFacts, control_files, of_control_net
from engine.runs.checkpoints import read_checkpoint
from engine.runs.choice import refuse_damaged, refuse_run, require_controlnet

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG_KEY = "controlnet_config"
"""Header entry of a single file that holds the net's config, so that readers need not guess it."""


def locate_controlnet(path: Path | str) -> Path:
    """Find the diffusers folder that ``path`` means: the folder itself, or the one in a checkpoint's folder.

    Raises:
        UserError: there is none, it is incomplete, a damaged checkpoint or a run, or the checkpoint is of another
            trainable.
    """
    path = Path(path)
    for folder in (path, path.parent):  # a checkpoint's, or its ControlNet's
        if (checkpoint := read_checkpoint(folder)) is not None:
            require_controlnet(checkpoint)
        else:
            refuse_damaged(folder)
    refuse_run(path)
    if not path.exists():
        raise UserError(
            f"The ControlNet {path.name} was not found.",
            f"{path} does not exist.",
            "Choose another checkpoint; it may have been removed to save space.",
        )
    for folder in (path, path / "controlnet_ema", path / "controlnet"):
        if (folder / CONFIG).is_file():
            if not list(folder.glob("*.safetensors")):
                raise UserError(
                    f"The ControlNet {path.name} is incomplete.",
                    f"{folder} contains no weights ({WEIGHTS}).",
                    "Choose another checkpoint.",
                )
            return folder
    raise UserError(
        f"{path.name} is not a ControlNet that can be used here.",
        f"It contains no {CONFIG}.",
        "Choose a checkpoint of a run, or a folder in diffusers layout.",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ControlNet's config.json.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not any(kind.config_mark in config for kind in control_files()):
            raise ValueError("entries are missing")
        return config
    except (OSError, ValueError) as error:
        raise UserError(
            f"The ControlNet {folder.name} cannot be read.",
            f"{folder / CONFIG}: {fault(error) if isinstance(error, json.JSONDecodeError) else error}.",
            "Choose another checkpoint.",
        ) from error


def check_fits(
    controlnet: Mapping[str, Any], denoiser: Mapping[str, Any], name: str, base: str, facts: FamilyFacts
) -> None:
    """Compare the config of a ControlNet with that of a base's denoiser.

    Args:
        facts: of the base's family.

    Raises:
        UserError: they do not fit; names each difference.
    """
    if "_class_name" in controlnet and of_control_net(controlnet).net_class != facts.net_class:
        raise UserError(
            f"The ControlNet {name} does not fit the base {base}.",
            f"It was made for another kind of base than {facts.title}.",
            "Choose the base it was trained on, or one of the same family.",
        )
    channels = facts.control_files.control_channels(controlnet)
    if channels != facts.control_channels and not facts.control_files.is_of_rgb(controlnet):
        made = f"latents ({facts.control_channels})" if facts.control_is_encoded else "RGB ones (3)"
        raise UserError(
            f"The ControlNet {name} cannot be used here.",
            f"It reads control images of {channels} channels; this app makes {made}.",
            "Choose another ControlNet.",
        )
    differences = [
        f"{words} ({_short(controlnet.get(key))} instead of {_short(denoiser.get(key))})"
        for key, words in facts.control_files.same_as_base.items()
        if key in controlnet and key in denoiser and _plain(controlnet[key]) != _plain(denoiser[key])
    ]
    if differences:
        raise UserError(
            f"The ControlNet {name} does not fit the base {base}.",
            f"It was made for another kind of base: it differs in {', '.join(differences)}.",
            "Choose the base it was trained on, or one of the same family.",
        )


def check_finite(controlnet: Any, name: str) -> None:
    """Raise UserError if weights are NaN or infinite; it names the first."""
    for key, weight in controlnet.state_dict().items():
        if weight.element_size() > 1 and not weight.isfinite().all():  # torch cannot check fp8
            raise UserError(
                f"The ControlNet {name} is broken.",
                f"Its weights contain NaN or infinity (first in {key}): training went wrong before it was saved.",
                "Choose an earlier checkpoint. To train on, resume its run from that one with a lower learning rate "
                "(Resume with other settings, on the Train tab).",
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
