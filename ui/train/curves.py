"""Data of the charts: at most 500 points a line, and a smoothed line for noisy curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.evaluation.verdict_rules import Losses
from engine.jobs.events import BaseChecked, Checked
from engine.jobs.snapshot import JobSnapshot
from ui.train.chart import CHANGED, PAUSED, SAVED

Points = Sequence[tuple[int, float]]
LIMIT = 500
EACH, SMOOTH = "each step", "smoothed"


def thin(points: Points, limit: int = LIMIT) -> list[tuple[int, float]]:
    """Return at most ``limit`` evenly chosen points, including the last one."""
    if len(points) <= limit:
        return list(points)
    stride = -(-len(points) // limit)
    return list(points[::-1][::stride])[::-1]


def latest(points: Points) -> list[tuple[int, float]]:
    """Return one point for each step, in order. If a step was trained again after a crash, the newer one."""
    return sorted(dict(points).items())


def smoothed(points: Points, window: int | None = None) -> list[tuple[int, float]]:
    """Return the exponential mean over about ``window`` points (default: a tenth of them), with bias correction."""
    window = window or max(5, len(points) // 10)
    keep = 1 - 1 / window
    total = weight = 0.0
    result = []
    for x, y in points:
        total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        result.append((x, total / weight))
    return result


def loss_rows(points: Points) -> dict[str, list[Any]]:
    """Return columns step, loss and line: the raw points and the smoothed line."""
    shown = thin(latest(points))
    both = [(x, y, EACH) for x, y in shown] + [(x, y, SMOOTH) for x, y in smoothed(shown)]
    return {"step": [b[0] for b in both], "loss": [b[1] for b in both], "line": [b[2] for b in both]}


# Names of scores on the page. Others are shown as they are.
ADHERENCE, CONTOURS = "adherence to the control image", "contours as in the original"
TITLES = {"obeys": ADHERENCE, "adherence": "agreement of the control images", "iou": "right place"}
TITLES |= {"colours": "right colours", "likeness": "agreement of the contours"}
RAW = ("adherence", "likeness")
"""Scores that "obeys" is computed from. They are shown only if it is missing."""


def score_rows(scores: Sequence[tuple[int, dict[str, float]]]) -> dict[str, list[Any]]:
    """Return columns step, score and what, with a row for each score."""
    rows = []
    for step, values in scores:
        for name, value in values.items():
            if name in RAW and "obeys" in values:
                continue
            title = CONTOURS if name == "obeys" and "likeness" in values else TITLES.get(name, name.replace("_", " "))
            rows.append((step, value, title))
    return {"step": [r[0] for r in rows], "score": [r[1] for r in rows], "what": [r[2] for r in rows]}


def likely_range(figures: Sequence[tuple[int, dict[str, float]]]) -> list[tuple[float, float, float]]:
    """Return (step, low, high) of the 95 % interval of "obeys" for each set of preview images."""
    known = [(step, values) for step, values in figures if "obeys_low" in values]
    return [(step, values["obeys_low"], values["obeys_high"]) for step, values in known]


HELD_OUT, TRAINED = "held-out pairs", "training pairs"
HELD_OUT_IMAGES, TRAINED_IMAGES, DRIFT = "gain, held-out images", "gain, training images", "drift, other captions"
"""Lines of a run that teaches the base."""


def gain_rows(checks: Sequence[Checked]) -> dict[str, list[Any]]:
    """Return columns step, percent and line: the control gain of held-out and training pairs, in % of the loss."""
    rows = [(c.step, 100 * c.gain_share, HELD_OUT) for c in checks]
    rows += [(c.step, 100 * c.training_share, TRAINED) for c in checks if c.training_share is not None]
    return _percent(rows)


def taught_rows(checks: Sequence[BaseChecked]) -> dict[str, list[Any]]:
    """Return columns step, percent and line: the gain of held-out and training images, and the drift."""
    rows = [(c.step, 100 * c.gain, HELD_OUT_IMAGES) for c in checks]
    rows += [(c.step, 100 * c.training_gain, TRAINED_IMAGES) for c in checks]
    return _percent(rows + [(c.step, 100 * c.drift, DRIFT) for c in checks])


def fixed_loss_rows(checks: Sequence[Losses], held_out: str = HELD_OUT, trained: str = TRAINED) -> dict[str, list[Any]]:
    """Return columns step, percent and line: change of held-out and training loss since the first check.

    Args:
        held_out: name of the first line.
        trained: name of the second line.
    """
    return _percent(
        [
            (check.step, 100 * (now / start - 1) if start else 0.0, line)
            for check in checks
            for now, start, line in (
                (check.held_out_loss, checks[0].held_out_loss, held_out),
                (check.training_loss, checks[0].training_loss, trained),
            )
        ]
    )


def _percent(rows: Sequence[tuple[int, float, str]]) -> dict[str, list[Any]]:
    return {"step": [r[0] for r in rows], "percent": [r[1] for r in rows], "line": [r[2] for r in rows]}


def one_line(points: Points, name: str) -> dict[str, list[Any]]:
    """Return columns step, value and line of a single curve."""
    shown = thin(latest(points))
    return {"step": [x for x, _ in shown], "value": [y for _, y in shown], "line": [name] * len(shown)}


def step_axis(history: JobSnapshot) -> dict[str, Any]:
    """Return the options of ``line_chart`` that all charts over a run's steps share: marks, notes, images per step."""
    marks = {
        SAVED: history.kept,
        PAUSED: history.pauses,
        CHANGED: tuple(dict.fromkeys(step for step, _ in history.changes)),
    }
    return {"marks": marks, "images": history.images_per_step, "notes": history.changes}
