"""Chart data: at most 500 points, and a smoothed line that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.jobs.events import Checked

Points = Sequence[tuple[int, float]]
LIMIT = 500
EACH, SMOOTH = "each step", "smoothed"


def thin(points: Points, limit: int = LIMIT) -> list[tuple[int, float]]:
    """Evenly chosen points, the last one always among them."""
    if len(points) <= limit:
        return list(points)
    stride = -(-len(points) // limit)
    return list(points[::-1][::stride])[::-1]


def latest(points: Points) -> list[tuple[int, float]]:
    """One point a step, in order: of a step that was trained again after a crash, the newer one."""
    return sorted(dict(points).items())


def smoothed(points: Points, window: int | None = None) -> list[tuple[int, float]]:
    """Exponential mean over about ``window`` points (default: a tenth of them), corrected for its start."""
    window = window or max(5, len(points) // 10)
    keep = 1 - 1 / window
    total = weight = 0.0
    result = []
    for x, y in points:
        total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        result.append((x, total / weight))
    return result


def loss_rows(points: Points) -> dict[str, list[Any]]:
    """Columns step, loss and line: the raw points and the smoothed line."""
    shown = thin(latest(points))
    both = [(x, y, EACH) for x, y in shown] + [(x, y, SMOOTH) for x, y in smoothed(shown)]
    return {"step": [b[0] for b in both], "loss": [b[1] for b in both], "line": [b[2] for b in both]}


# The engine's names in plain words; others are shown as they are.
TITLES = {"adherence": "obeys the control picture", "iou": "right place", "colours": "right colours"}


def score_rows(scores: Sequence[tuple[int, dict[str, float]]]) -> dict[str, list[Any]]:
    """Columns step, score and what, one row a score."""
    rows = [
        (step, value, TITLES.get(name, name.replace("_", " ")))
        for step, values in scores
        for name, value in values.items()
    ]
    return {"step": [r[0] for r in rows], "score": [r[1] for r in rows], "what": [r[2] for r in rows]}


GAIN, BEGINS, SAVED = "control gain", "begins to listen", "saved"
HELD_OUT, TRAINED = "held-out pairs", "training pairs"


def gain_rows(
    checks: Sequence[Checked], listens_since: int | None = None, saved: Sequence[int] = ()
) -> dict[str, list[Any]]:
    """Columns step, percent and line: the gain in percent of the loss; marks as lines of their own.

    A full-height mark where the net begins to listen, small ticks on the ground line at the checkpoints. Lines without
    points get an empty one: the chart keeps the names and colours that it was first drawn with.
    """
    rows: list[tuple[int, float | None, str]] = [(c.step, 100 * c.gain_share, GAIN) for c in checks]
    top = max((100 * c.gain_share for c in checks), default=0.0)
    rows += [(checks[0].step, None, line) for line in (BEGINS, SAVED) if checks]
    if listens_since is not None:
        rows += [(listens_since, 0.0, BEGINS), (listens_since, top, BEGINS)]
    for step in sorted(saved) if top > 0 else ():
        rows += [(step, height, SAVED) for height in (0.0, 0.08 * top, 0.0)]
    return {"step": [r[0] for r in rows], "percent": [r[1] for r in rows], "line": [r[2] for r in rows]}


def fixed_loss_rows(checks: Sequence[Checked]) -> dict[str, list[Any]]:
    """Columns step, percent and line: how held-out and training loss have changed since the first check."""
    rows = [
        (check.step, 100 * (now / start - 1) if start else 0.0, line)
        for check in checks
        for now, start, line in (
            (check.held_out_loss, checks[0].held_out_loss, HELD_OUT),
            (check.training_loss, checks[0].training_loss, TRAINED),
        )
    ]
    return {"step": [r[0] for r in rows], "percent": [r[1] for r in rows], "line": [r[2] for r in rows]}
