"""Blind comparison: the next pair to show, stored votes, and the result."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from engine.evaluation.grid import Column, Grid, RowLabel
from engine.evaluation.votes import (
    Comparison,
    Vote,
    keep_vote,
    next_comparison,
    read_votes,
    tally,
    vote_on,
    votes_file,
    wilson,
)

STEPS = (100, 200, 300)


@pytest.fixture
def grid() -> Grid:
    columns = [Column("without ControlNet", None, ""), *(Column(f"step {s}", s, f"w{s}") for s in STEPS)]
    rows = [RowLabel(f"image {n}", "a cat", n, 1.0, f"control{n}", 64, 64) for n in range(4)]
    cells = tuple(tuple(f"{n}-{column.weights or 'plain'}" for column in columns) for n in range(4))
    return Grid("birds", "now", tuple(columns), tuple(rows), cells, {})


def vote_all(grid: Grid, favourite: str, rounds: int = 100) -> list[Vote]:
    """Votes by a person who always prefers one checkpoint and sees no difference between the others."""
    votes: list[Vote] = []
    chance = random.Random(0)
    for _ in range(rounds):
        pair = next_comparison(grid, votes, chance)
        if pair is None:
            break
        titles = [grid.columns[pair.left].title, grid.columns[pair.right].title]
        choice = "same" if favourite not in titles else ("left", "right")[titles.index(favourite)]
        votes.append(vote_on(grid, pair, choice))
    return votes


def test_every_pair_is_shown_once_and_sides_are_balanced(grid: Grid) -> None:
    votes = vote_all(grid, "step 300")
    assert len(votes) == 3 * 4, "three pairs of checkpoints by four rows; nobody votes on no ControlNet"
    assert len({frozenset(vote.pictures) for vote in votes}) == 12
    after = [frozenset((vote.first, vote.second)) for vote in votes[:6]]
    assert all(after.count(pair) == 2 for pair in after), "no pair is asked much more often than another"
    sides = {vote.first for vote in votes}
    assert sides == {"w100", "w200", "w300"}
    assert len({vote.titles[0] > vote.titles[1] for vote in votes}) == 2


def test_identical_or_missing_images_are_not_shown(grid: Grid) -> None:
    cells = tuple((row[0], row[1], row[1], None) for row in grid.cells)
    assert next_comparison(replace(grid, cells=cells), [], random.Random(0)) is None


def test_a_skipped_comparison_does_not_return(grid: Grid) -> None:
    skipped: list[Comparison] = []
    while (pair := next_comparison(grid, [], random.Random(len(skipped)), skipped)) is not None:
        assert pair not in skipped
        skipped.append(pair)
    assert len(skipped) == 12


def test_the_favourite_leads_with_its_confidence(grid: Grid) -> None:
    count = tally(grid, vote_all(grid, "step 200"))
    assert [standing.title for standing in count.columns][0] == "step 200"
    first, second = count.columns[:2]
    assert (first.share, first.votes, second.share) == (1.0, 8, 0.25)
    assert first.low > 0.5 and "more than chance" in count.sentence and "step 200" in count.sentence
    few = tally(grid, vote_all(grid, "step 200", rounds=3))
    assert "could still be chance" in few.sentence
    assert tally(grid, []).sentence == "No votes yet."


def test_votes_on_replaced_weights_do_not_count(grid: Grid) -> None:
    votes = vote_all(grid, "step 200")
    trained_anew = replace(
        grid, columns=tuple(replace(c, weights=c.weights and f"new {c.weights}") for c in grid.columns)
    )
    assert tally(trained_anew, votes).votes == 0


def test_votes_are_stored_with_the_run_and_a_truncated_line_is_skipped(grid: Grid, tmp_path: Path) -> None:
    votes = vote_all(grid, "step 100")
    for vote in votes:
        keep_vote(tmp_path, vote)
    with votes_file(tmp_path).open("a", encoding="utf-8") as file:
        file.write('{"first": "w1')
    assert read_votes(tmp_path) == votes
    assert read_votes(tmp_path / "nothing") == []


def test_the_interval_is_wilsons() -> None:
    """Compares with Newcombe 1998, Statistics in Medicine 17, table I."""
    for won, votes, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(won, votes) == pytest.approx((low, high), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
