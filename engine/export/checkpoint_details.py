"""Facts about a checkpoint from its run's files: scores, example images and how they were drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.config import ValidationConfig
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.export.sharing import Sharing, read_sharing
from engine.jobs.events import BaseChecked
from engine.runs.run import PreviewRecord, Run

UNION_MODE = "union_mode"
"""Entry of an export's metadata: the mode in which a union net was trained."""


@dataclass(frozen=True)
class CheckpointDetails:
    """What a checkpoint's run knows, for the header and the model card; empty if unknown."""

    scores: dict[str, float] = field(default_factory=dict)
    """Means over held-out pairs, for example {"adherence": 0.81}."""
    pictures: tuple[Path, ...] = ()
    """Image rows (NN-row.webp): control image, drawn image, original, of one size. NN.webp is the drawn image alone."""
    drawn: ValidationConfig | None = None
    """Settings with which they were drawn."""
    resolution: int = 0
    clip_skip: int = 1
    """Layer of the text encoder, counted from the last as AUTOMATIC1111 does."""
    training_pictures: int = 0
    taught: BaseChecked | None = None
    """The last loss check up to the checkpoint's step, of a run that teaches its base."""
    sharing: Sharing = field(default_factory=Sharing)
    """What the model card says about the training data."""
    checkpoint: str = ""
    """Name of the checkpoint's folder, under which ``sharing`` has what was measured."""


UNKNOWN = CheckpointDetails()


def read_details(checkpoint: Path) -> CheckpointDetails:
    """Read the facts about a checkpoint's folder inside a run.

    Scores and images are those of the same step, or of the last one before it.
    """
    folder = checkpoint.parent.parent
    try:
        run = Run(folder)
    except UserError:
        return UNKNOWN  # the checkpoint was copied out of its run
    step = _step(checkpoint)
    records = [record for record in run.previews() if step is None or record.step <= step]
    last: PreviewRecord | None = records[-1] if records else None
    checks = [check for check in run.history().base_checks if step is None or check.step <= step]
    return CheckpointDetails(
        scores=dict(last.scores) if last else {},
        pictures=tuple(path for path in last.pictures if path.is_file()) if last else (),
        drawn=run.config.validation,
        resolution=run.config.data.resolution,
        clip_skip=run.config.model.clip_skip,
        training_pictures=_count(folder.parent.parent / "datasets" / run.config.data.dataset),
        taught=checks[-1] if checks else None,
        sharing=read_sharing(folder),
        checkpoint=checkpoint.name,
    )


def _step(checkpoint: Path) -> int | None:
    digits = checkpoint.name.removeprefix("step-")
    return int(digits) if digits.isdigit() else None


def _count(dataset: Path) -> int:
    try:
        return Dataset.open(dataset).count(ready=True)
    except UserError:
        return 0  # removed in the meantime
