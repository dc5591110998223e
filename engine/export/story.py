"""What a run knows about one of its checkpoints beyond the weights: scores, example images, how they were drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.config import ValidationConfig
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.runs.run import PreviewRecord, Run


@dataclass(frozen=True)
class Story:
    """Facts for the header and the model card; what is not known is empty."""

    scores: dict[str, float] = field(default_factory=dict)
    """Means over held-out pairs, for example {"adherence": 0.81}."""
    pictures: tuple[Path, ...] = ()
    """Rows: the map, the image drawn, the original."""
    drawn: ValidationConfig | None = None
    """How they were drawn."""
    resolution: int = 0
    training_pictures: int = 0


UNKNOWN = Story()


def story_of(checkpoint: Path) -> Story:
    """The story of a checkpoint's folder inside a run, as far as the run's files tell it.

    Scores and images are those of the same step, else of the last one before it.
    """
    folder = checkpoint.parent.parent
    try:
        run = Run(folder)
    except UserError:
        return UNKNOWN  # a checkpoint that was copied out of its run
    step = _step(checkpoint)
    records = [record for record in run.previews() if step is None or record.step <= step]
    last: PreviewRecord | None = records[-1] if records else None
    return Story(
        scores=dict(last.scores) if last else {},
        pictures=tuple(path for path in last.pictures if path.is_file()) if last else (),
        drawn=run.config.validation,
        resolution=run.config.data.resolution,
        training_pictures=_count(folder.parent.parent / "datasets" / run.config.data.dataset),
    )


def _step(checkpoint: Path) -> int | None:
    digits = checkpoint.name.removeprefix("step-")
    return int(digits) if digits.isdigit() else None


def _count(dataset: Path) -> int:
    try:
        return Dataset.open(dataset).count(ready=True)
    except UserError:
        return 0  # removed since
