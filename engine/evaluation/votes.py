"""Blind comparison of checkpoints: which pair is shown next, what was preferred, and what that amounts to.

Votes are lines of comparisons/votes.jsonl in the run's folder. Who votes sees two images of one row of the grid,
in random order and without names.
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

Z = 1.96
"""Two-sided 95 %."""
Choice = Literal["left", "right", "same"]


@dataclass(frozen=True)
class Pair:
    """Two images of one row, as they are shown: by the places of their columns in the grid."""

    row: int
    left: int
    right: int


@dataclass(frozen=True)
class Vote:
    """One comparison. ``better``: the weights that were preferred; empty: neither."""

    first: str
    second: str
    better: str
    pictures: tuple[str, str]
    """Keys of the two images."""
    titles: tuple[str, str]
    """What the two columns were called, for people who read the file."""
    at: str


@dataclass(frozen=True)
class Standing:
    """What one column has got. ``share`` of its votes, ties count half, with the 95 % interval."""

    title: str
    votes: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Tally:
    """All votes on the columns of a grid, the most preferred first."""

    standings: tuple[Standing, ...]
    votes: int
    sentence: str


def wilson(won: float, votes: int, z: float = Z) -> tuple[float, float]:
    """Interval of a share (Wilson 1927, JASA 22): ``won`` of ``votes``, 0..1; all is possible without votes."""
    if votes == 0:
        return 0.0, 1.0
    share = won / votes
    middle = share + z * z / (2 * votes)
    half = z * math.sqrt(share * (1 - share) / votes + z * z / (4 * votes * votes))
    scale = 1 + z * z / votes
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def comparable(grid: Grid) -> list[tuple[int, Column]]:
    """Columns that are voted on, with their places; the one without ControlNet would be known at once."""
    return [(place, column) for place, column in enumerate(grid.columns) if column.step is not None]


def next_pair(grid: Grid, votes: Sequence[Vote], chance: random.Random, skipped: Iterable[Pair] = ()) -> Pair | None:
    """What to compare next: of the two columns that were compared least, a row that was not voted on yet.

    None where every pair of different images was compared, or passed over.
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
    return Pair(row, *((left, right) if chance.random() < 0.5 else (right, left)))


def vote_on(grid: Grid, pair: Pair, choice: Choice) -> Vote:
    """The vote for a pair that was shown."""
    left, right = grid.columns[pair.left], grid.columns[pair.right]
    shown = grid.cells[pair.row][pair.left], grid.cells[pair.row][pair.right]
    assert shown[0] is not None and shown[1] is not None, "only images that are there are shown"
    better = {"left": left.weights, "right": right.weights, "same": ""}[choice]
    return Vote(
        left.weights, right.weights, better, (shown[0], shown[1]), (left.title, right.title),
        time.strftime("%Y-%m-%d %H:%M:%S"),
    )  # fmt: skip


def votes_file(run_folder: Path) -> Path:
    return run_folder / "comparisons" / "votes.jsonl"


def keep_vote(run_folder: Path, vote: Vote) -> None:
    """Write a vote behind the others."""
    path = votes_file(run_folder)
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(asdict(vote), ensure_ascii=False) + "\n")


def read_votes(run_folder: Path) -> list[Vote]:
    """All votes on a run; a line that was cut off is passed over."""
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


def tally(grid: Grid, votes: Sequence[Vote]) -> Tally:
    """What the votes on the columns of a grid amount to; votes on weights that are not in it do not count."""
    names = {column.weights: column.title for _, column in comparable(grid)}
    counted = [vote for vote in votes if vote.first in names and vote.second in names]
    standings = []
    for weights, title in names.items():
        mine = [vote for vote in counted if weights in (vote.first, vote.second)]
        won = sum(1.0 if vote.better == weights else 0.5 if not vote.better else 0.0 for vote in mine)
        standings.append(
            Standing(title, len(mine), won / len(mine) if mine else 0.0, *wilson(won, len(mine)))
        )  # fmt: skip
    standings.sort(key=lambda standing: (-standing.share, -standing.votes))
    return Tally(tuple(standings), len(counted), _sentence(standings, counted))


def _sentence(standings: Sequence[Standing], votes: Sequence[Vote]) -> str:
    """The verdict of the votes, and how sure it is."""
    if not votes:
        return "Nothing was voted on yet."
    best = standings[0]
    if len(votes) == 1:
        return "One vote says nothing yet: vote on."
    words = (
        f"You preferred {best.title} in {best.share:.0%} of its "
        f"{'one comparison' if best.votes == 1 else f'{best.votes:,} comparisons'} "
        f"(95 % interval: {best.low:.0%} to {best.high:.0%})."
    )
    if best.low > 0.5:
        return f"{words} That is more than chance."
    return f"{words} That could still be chance: vote on."
