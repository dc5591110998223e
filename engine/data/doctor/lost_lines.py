"""Lines of control images that the VAE of a base loses whose ControlNets read latents.

The other findings hold for every base. This one is measured on some of the dataset's pairs (through_vae.py), for the
base, the resolution and the crops of the next run, and stays until the control images are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.conditions import registry
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.doctor.check_store import CheckStore
from engine.data.doctor.finding import Finding, Hit
from engine.data.lines_kept import LOST
from engine.data.through_vae import Reconstruction, pairs_to_reconstruct, reads_latents, reconstruct, share_kept
from engine.errors import UserError
from engine.families.files import is_local
from engine.jobs.control import CancelToken, OnProgress
from engine.workspace.paths import Workspace

LINES_LOST = Finding(
    "map_lines_lost",
    "Thin lines that the base's VAE loses",
    "The ControlNet of this base reads control images through the VAE, in cells of 8 x 8 pixels. Lines of a pixel or "
    "two come out pale or not at all, and the net cannot learn to follow what it does not see.",
    "Draw thicker lines, of 3 px or more at the training's resolution, and make the control images again; or train at "
    "a larger resolution.",
    "warning",
    whole=True,
)
FINDINGS = (LINES_LOST,)
MAPS = "maps_through_vae"
"""Entry of the store: which maps the finding is about."""


@dataclass(frozen=True)
class LinesThroughVae:
    """Control images after a base's VAE."""

    seen: tuple[Reconstruction, ...]
    kept: float | None
    """Mean share of their line pixels that is left; None: they are no maps of lines."""
    try_this: str
    """What to change, if lines are lost; else empty."""

    @property
    def lost(self) -> bool:
        return self.kept is not None and self.kept < LOST

    @property
    def words(self) -> str:
        """What was measured, as a sentence."""
        if self.kept is None:
            return "The control images are no lines on a plain ground, so nothing was measured."
        return f"The base's VAE leaves {self.kept:.0%} of the pixels of their lines."


def measure_lines(
    workspace: Workspace,
    dataset: Dataset,
    base: str,
    plan: CropPlan,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> LinesThroughVae | None:
    """Encode and decode some control images, and record the finding. Earlier results are reused.

    Args:
        base: as in the settings.

    Returns:
        None: the base is not on this disk, its ControlNets read pixels, or the dataset has no control images.

    Raises:
        UserError: a file cannot be read, or memory is not enough. Cancelled: what is finished is kept.
    """
    located = place_of(workspace, base)
    if not located or dataset.condition is None or not (samples := pairs_to_reconstruct(dataset)):
        return None
    return record(
        dataset, reconstruct(workspace.cache, located, dataset, samples, plan, token, progress), plan.resolution
    )


def place_of(workspace: Workspace, base: str) -> str:
    """Where a base is whose ControlNets read latents; "": it is not on this disk, or they read pixels."""
    try:
        located = workspace.locate_base(base)
        return located if is_local(located) and reads_latents(located) else ""
    except UserError:
        return ""


def record(dataset: Dataset, seen: Sequence[Reconstruction], resolution: int) -> LinesThroughVae:
    """Keep the finding of these control images in the dataset's check, and return it."""
    kept, spec = share_kept(seen), dataset.condition
    assert spec is not None  # else there are no control images
    found = LinesThroughVae(tuple(seen), kept, "")
    hits = []
    if found.lost:
        found = LinesThroughVae(found.seen, kept, thicker_lines(dataset, resolution))
        hits = [
            Hit(LINES_LOST.name, one.sample.key, f"{one.lines.pixels:.0%} of the pixels of its lines are left")
            for one in seen
            if one.lines is not None and one.lines.pixels < LOST
        ]
    CheckStore(dataset.folder).replace_one(LINES_LOST.name, hits, {MAPS: spec.fingerprint})
    return found


def thicker_lines(dataset: Dataset, resolution: int) -> str:
    """How to draw thicker lines, by the settings of the dataset's own condition.

    Args:
        resolution: of the run, in pixels.
    """
    spec = dataset.condition
    kind = registry.get(spec.type) if spec else None
    if spec is None or kind is None or kind.extract is None:
        return "Make your control images with lines of 3 px or more at the training's resolution, then read them again."
    for parameter in kind.parameters:
        if parameter.thickens:
            now = spec.parameters.get(parameter.name, parameter.default)
            return f"On the Conditions tab, raise {parameter.title} (now {now}), and make the control images again."
    side = max(64, resolution // 2)
    return (
        f"On the Conditions tab, set Size of the maps to {side}, so that a line of one pixel is two wide in training, "
        "or choose a type with thicker lines, such as Scribble; then make the control images again."
    )
