"""Measures what a model card says about the training data: near copies of training images, and words of captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.data.dataset import Dataset
from engine.data.doctor.classes import MOST_FOLDERS, ClassCounts
from engine.data.held_out import split
from engine.data.samples import Sample
from engine.disk.images import load_rgb
from engine.evaluation import nearest, report
from engine.evaluation.evaluate import FOLDER
from engine.export.sharing import RARE, Copy, DataCheck
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import PreviewRecord, Run
from engine.workspace.paths import Workspace

MOST_WORDS = 12
ROW = "-row.webp"


def check_data(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> DataCheck:
    """Measure for a checkpoint. The drawn images are those of its full evaluation, or else the run's previews.

    Previews are those of the same step, or of the last one before it.

    Raises:
        UserError: the run's dataset or an image is gone. Cancelled: the token is cancelled.
    """
    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    trained = split(dataset, run.config.data.held_out, run.held_out).train
    counts = ClassCounts()
    for sample in trained:
        counts.add(sample)
    captioned = sum(bool(sample.caption.strip()) for sample in trained)
    words = sorted(counts.words.items(), key=lambda one: (-one[1], one[0]))
    folders = tuple(counts.folders.values())
    step, drawn, found = _copies(run, checkpoint, dataset, trained, token, progress)
    return DataCheck(
        step=step,
        drawn=drawn,
        copies=tuple(Copy(one.number, one.key, one.distance) for one in found.drawn),
        originals=found.originals,
        looked_at=found.looked_at,
        of=found.of,
        captioned=captioned,
        words=tuple(words[:MOST_WORDS]),
        distinct=len(words),
        rare=sum(count < RARE * captioned for _, count in words),
        folders=folders if 2 <= len(folders) <= MOST_FOLDERS else (),
        balance=run.config.data.balance,
    )


def _copies(
    run: Run,
    checkpoint: Checkpoint,
    dataset: Dataset,
    trained: Sequence[Sample],
    token: CancelToken | None,
    progress: OnProgress | None,
) -> tuple[int, int, nearest.SearchResult]:
    """(step of the drawn images, their number, what was found)."""
    average = not checkpoint.folder.name.startswith("step-")  # its own images were never drawn
    evaluations = [] if average else report.reports(run.folder / FOLDER)
    evaluated = next((one for one in evaluations if one["step"] == checkpoint.step and "nearest" in one), None)
    if evaluated is not None:
        near = evaluated["nearest"]
        matches = [nearest.Match(**one) for one in near["drawn"]]
        result = nearest.SearchResult(matches, near["true_pictures"], near["looked_at"], near["of"])
        return checkpoint.step, evaluated["pairs"]["held_out"], result
    records = [record for record in run.previews() if record.step <= checkpoint.step]
    images, originals = _pairs_of(records[-1]) if records else ([], [])
    if not images:
        return checkpoint.step, 0, nearest.SearchResult([], 0, 0, len(trained))
    return records[-1].step, len(images), nearest.search(dataset, trained, images, originals, token, progress)


def _pairs_of(record: PreviewRecord) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The drawn images of a preview and their originals, which stand at the right end of the rows."""
    images, originals = [], []
    for path in record.pictures:
        alone = Path(str(path).removesuffix(ROW) + ".webp")
        if path.name.endswith(ROW) and alone.is_file() and path.is_file():
            images.append(np.asarray(load_rgb(alone)))
            originals.append(np.asarray(load_rgb(path))[:, -images[-1].shape[1] :])
    return images, originals
