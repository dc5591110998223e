"""Datasets and settings of the demo, for the page and the command line. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config.presets import Preset, load_preset
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.demo.blobs import make_blobs
from engine.demo.circles import make_circles
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted
from engine.workspace.paths import Workspace

SIDE = 128  # pixels; the size of the demo base
DEFAULT_COUNT = 2000
DRAWN = "pictures"
"""Folder inside the dataset's own, with what was drawn."""
MAKERS = {"circles": make_circles, "blobs": make_blobs}


@dataclass(frozen=True)
class DemoSet:
    """A generated set: its name, its title on the page, and what its condition teaches."""

    name: str
    title: str
    teaches: str


DEMO_SETS = (
    DemoSet("circles", "Coloured circles", "An outline shows where the disc is; the caption names the colours."),
    DemoSet("blobs", "Light-and-dark blobs", "A map of light and dark shows where each colour goes."),
)


def is_of_demo_shapes(workspace: Workspace, source: Path) -> bool:
    """Whether a dataset's folder of images is one that ``make_demo_set`` drew, or lies in it."""
    if not source.is_relative_to(workspace.datasets):
        return False
    name, *rest = source.relative_to(workspace.datasets).parts
    return name.startswith(tuple(f"demo-{kind}-" for kind in MAKERS)) and rest[:1] == [DRAWN]


def demo_preset() -> Preset:
    """Settings for a training on the demo base that takes minutes."""
    return load_preset(Path(__file__).with_name("demo.toml"))


def make_demo_set(
    workspace: Workspace,
    kind: str = "circles",
    count: int = DEFAULT_COUNT,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
) -> Dataset:
    """Draws a demo set into the workspace and opens it as a dataset. Keeps an existing one.

    Raises:
        UserError: the count is out of range, or the disk is full. Cancelled: the token was cancelled.
    """
    if not 4 <= count <= 100_000:
        raise UserError(
            "The demo set was not made.",
            f"{counted(count, 'image was', 'images were')} requested.",
            "Choose between 4 and 100,000 images.",
        )
    name = f"demo-{kind}-{count}"
    folder = workspace.dataset_folder(name) / DRAWN
    options: dict[str, Any] = {"size": SIDE, "seed": 0, "progress": progress, "token": token}
    MAKERS[kind](folder, count, **options)
    return Dataset.create(workspace, name, scan_folder(folder, progress, token), folder)
