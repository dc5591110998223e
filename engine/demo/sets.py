"""The demo's datasets and settings, for the window and the command line alike. Imports no torch."""

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
from engine.workspace.paths import Workspace

SIDE = 128  # pixels; what the demo base was made for
DEFAULT_COUNT = 2000
MAKERS = {"circles": make_circles, "blobs": make_blobs}


@dataclass(frozen=True)
class DemoSet:
    """A generated set: its name, what people see, and what its condition teaches."""

    name: str
    title: str
    teaches: str


DEMO_SETS = (
    DemoSet("circles", "Coloured circles", "An outline says where the disc lies; the caption says the colours."),
    DemoSet("blobs", "Light-and-dark blobs", "A map of light and dark says where each colour goes."),
)


def demo_preset() -> Preset:
    """The settings that train on the demo base in minutes."""
    return load_preset(Path(__file__).with_name("demo.toml"))


def make_demo_set(
    workspace: Workspace,
    kind: str = "circles",
    count: int = DEFAULT_COUNT,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
) -> Dataset:
    """Draw a demo set into the workspace and open it as a dataset; one that is there already is kept.

    Raises:
        UserError: a count that makes no sense, or no room on the disk. Cancelled: the token says so.
    """
    if not 4 <= count <= 100_000:
        raise UserError(
            "The demo set was not made.", f"{count:,} images were asked for.", "Choose between 4 and 100,000."
        )
    name = f"demo-{kind}-{count}"
    folder = workspace.dataset_folder(name) / "pictures"
    options: dict[str, Any] = {"size": SIDE, "seed": 0, "progress": progress, "token": token}
    MAKERS[kind](folder, count, **options)
    return Dataset.create(workspace, name, scan_folder(folder, progress, token), folder)
