"""The net that a server draws with: its files, what its requests may set, and how it takes control images.

All of it is fixed when the server starts. A request names no file and no base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.inference import settings
from engine.machine.onnx_packages import TORCH, provider_of
from engine.workspace.base_reference import join
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from PIL import Image

FIXED = ("base", "ingredients", "second", "second_strength", "engine")
"""Settings that a request cannot have: they name files, or say which models are loaded."""


@dataclass(frozen=True)
class ServedNet:
    """A ControlNet and its base."""

    name: str
    """Of the run, or of the file without its ending."""
    net: Path
    """Folder of a checkpoint, folder in diffusers layout, or file."""
    base: str
    step: int | None = None
    """Of the checkpoint; None: it is no checkpoint."""
    condition: str = ""
    """Title of the kind of control image; empty: unknown."""
    categorical: bool = False
    """The values of its control images are labels."""
    make_map: Callable[[Image.Image], Image.Image] | None = None
    """Makes a control image of a photo; None: that is not possible."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings of requests that do not have them."""
    notes: tuple[str, ...] = ()
    """Sentences about the choice of the checkpoint."""

    @property
    def identity(self) -> str:
        """Names the net and its base: requests that were accepted for another are not drawn with this one."""
        return f"{self.net} on {self.reference}"

    @property
    def reference(self) -> str:
        """The base with its LoRA and embedding files."""
        return join(self.base, str(self.defaults.get("ingredients", "")))

    @property
    def card(self) -> dict[str, Any]:
        """What clients are told about the net, as plain values."""
        return {
            "net": self.name,
            "step": self.step,
            "base": Path(self.base).name,
            "condition": self.condition or None,
            "takes_photos": self.make_map is not None,
            "defaults": {name: value for name, value in self.defaults.items() if name not in FIXED},
        }


def serve_run(workspace: Workspace, name: str, step: int | None = None, base: str = "") -> ServedNet:
    """The net of a run's checkpoint.

    Args:
        step: of the checkpoint; None: the newest.
        base: another base of the same family; empty: the run's.

    Raises:
        UserError: there is no such run or checkpoint, or the run trains no ControlNet.
    """
    from engine.inference.control_image import condition_type, map_of
    from engine.runs.choice import choose_checkpoint
    from engine.runs.run import Run

    run = Run(workspace.run_folder(name))
    kind = condition_type(run)
    checkpoint, notes = choose_checkpoint(run, step)
    return ServedNet(
        name=run.name,
        net=checkpoint.controlnet,
        base=base or run.config.model.base,
        step=checkpoint.step,
        condition=kind.title,
        categorical=kind.categorical,
        make_map=(lambda image: map_of(run, image)) if kind.extract is not None else None,
        defaults=settings.run_defaults(run.config),
        notes=tuple(notes),
    )


def computed_by(served: ServedNet, engine: str) -> ServedNet:
    """The net as this engine (``inference.engines``) computes it.

    Raises:
        UserError: ONNX Runtime, or its build for this engine, is not installed, or the net has not been exported in
            ONNX.
    """
    if engine != TORCH:
        from engine.nets.onnx_net import onnx_folder

        provider_of(engine)
        onnx_folder(served.net)
    return replace(served, defaults={**served.defaults, "engine": engine})


def serve_file(path: Path, base: str) -> ServedNet:
    """A ControlNet in a file or folder.

    Raises:
        UserError: it is not there, or no base is given.
    """
    if not path.exists():
        raise UserError(
            f"There is no run and no file called {path}.", "Its name may be misspelled.", "Choose a run or a file."
        )
    if not base:
        raise UserError(
            f"{path.name} cannot be served.", "The file does not say which base it belongs to.", "Name it with --base."
        )
    return ServedNet(name=path.stem, net=path, base=base)
