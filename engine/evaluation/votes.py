"""Blind comparison of checkpoints: which two images to show next, and what the votes amount to.

Votes are lines of comparisons/votes.jsonl in the run's folder. The voter sees two images from one row of the grid, in
random order and without titles.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from engine.evaluation.grid import Column, Grid
from engine.machine.units import counted

Z = 1.96
"""Quantile of the normal distribution for a two-sided 95 % interval."""
Choice = Literal["left", "right", "same"]


@dataclass(frozen=True)
class Comparison:
    """Two images of one row of the grid, by the indices of their columns, as they are shown."""

    row: int
    left: int
    right: int


@dataclass(frozen=True)
class Vote:
    """One vote. ``better``: digest of the preferred weights; empty: neither."""

    first: str
    second: str
    better: str
    pictures: tuple[str, str]
    """Keys of the two images."""
    titles: tuple[str, str]
    """Titles of the two columns, for people who read the file."""
    at: str


@dataclass(frozen=True)
class ColumnResult:
    """The votes for one column. ``share``: fraction of its comparisons that it won, ties count half, with interval."""

    title: str
    votes: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class VoteResult:
    """All votes on the columns of a grid, the most preferred column first."""

    columns: tuple[ColumnResult, ...]
    votes: int
    sentence: str


def wilson(won: float, votes: int, z: float = Z) -> tuple[float, float]:
    """Interval of a proportion, ``won`` of ``votes``, within 0..1 (Wilson 1927, JASA 22). (0, 1) without votes."""
    if votes == 0:
        return 0.0, 1.0
    share = won / votes
    middle = share + z * z / (2 * votes)
    half = z * math.sqrt(share * (1 - share) / votes + z * z / (4 * votes * votes))
    scale = 1 + z * z / votes
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def comparable(grid: Grid) -> list[tuple[int, Column]]:
    """The columns to vote on, with their indices. Without ControlNet would be recognized at once."""
    return [(place, column) for place, column in enumerate(grid.columns) if column.step is not None]


def next_comparison(
    grid: Grid, votes: Sequence[Vote], chance: random.Random, skipped: Iterable[Comparison] = ()
) -> Comparison | None:
    """A row that was not voted on yet, of the two columns that were compared least often.

    None when all pairs of different images were compared or skipped.
    """
    times = Counter(frozenset((vote.first, vote.second)) for vote in votes)
    seen = {frozenset(vote.pictures) for vote in votes}
    passed = {(pair.row, frozenset((pair.left, pair.right))) for pair in skipped}
    open_pairs = []
    for (left, one), (right, other) in itertools.combinations(comparable(grid), 2):
        for row, cells in enumerate(grid.cells):
            first, second = cells[left], cells[right]
            if first is None or second is None or first == second or frozenset((first, second)) in seen:
                continue
            if (row, frozenset((left, right))) not in passed:
                open_pairs.append((times[frozenset((one.weights, other.weights))], row, left, right))
    if not open_pairs:
        return None
    least = min(count for count, *_ in open_pairs)
    _, row, left, right = chance.choice([entry for entry in open_pairs if entry[0] == least])
    return Comparison(row, *((left, right) if chance.random() < 0.5 else (right, left)))


def vote_on(grid: Grid, pair: Comparison, choice: Choice) -> Vote:
    """The vote for a comparison that was shown."""
    left, right = grid.columns[pair.left], grid.columns[pair.right]
    shown = grid.cells[pair.row][pair.left], grid.cells[pair.row][pair.right]
    assert shown[0] is not None and shown[1] is not None, "only drawn images are shown"
    better = {"left": left.weights, "right": right.weights, "same": ""}[choice]
    return Vote(
        first=left.weights,
        second=right.weights,
        better=better,
        pictures=(shown[0], shown[1]),
        titles=(left.title, right.title),
        at=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def votes_file(run_folder: Path) -> Path:
    """The file with all votes of a run."""
    return run_folder / "comparisons" / "votes.jsonl"


def keep_vote(run_folder: Path, vote: Vote) -> None:
    """Appends a vote to the file."""
    path = votes_file(run_folder)
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(asdict(vote), ensure_ascii=False) + "\n")


def read_votes(run_folder: Path) -> list[Vote]:
    """All votes of a run. Skips damaged lines."""
    try:
        lines = votes_file(run_folder).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    votes = []
    for line in lines:
        try:
            about = json.loads(line)
            votes.append(Vote(**{**about, "pictures": tuple(about["pictures"]), "titles": tuple(about["titles"])}))
        except (ValueError, TypeError, KeyError):
            continue
    return votes


def tally(grid: Grid, votes: Sequence[Vote]) -> VoteResult:
    """Counts the votes on the columns of a grid. Ignores votes on weights that are not in it."""
    names = {column.weights: column.title for _, column in comparable(grid)}
    counted = [vote for vote in votes if vote.first in names and vote.second in names]
    results = []
    for weights, title in names.items():
        mine = [vote for vote in counted if weights in (vote.first, vote.second)]
        won = sum(1.0 if vote.better == weights else 0.5 if not vote.better else 0.0 for vote in mine)
        results.append(ColumnResult(title, len(mine), won / len(mine) if mine else 0.0, *wilson(won, len(mine))))
    results.sort(key=lambda result: (-result.share, -result.votes))
    return VoteResult(tuple(results), len(counted), _sentence(results, counted))


def _sentence(results: Sequence[ColumnResult], votes: Sequence[Vote]) -> str:
    """The result and whether it could be chance."""
    if not votes:
        return "No votes yet."
    best = results[0]
    if len(votes) == 1:
        return "One vote is not enough. Keep voting."
    words = (
        f"You preferred {best.title} in {best.share:.0%} of its "
        f"{counted(best.votes, 'comparison')} "
        f"(95 % interval: {best.low:.0%} to {best.high:.0%})."
    )
    if best.low > 0.5:
        return f"{words} That is more than chance."
    return f"{words} That could still be chance. Keep voting."
